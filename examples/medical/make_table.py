"""Writes surgery.csv: a made-up table of questions and answers, in GB18030, as awkward as tables of that kind are.

Columns department, title, ask, answer. Cells hold commas, quotes, line ends and blanks; some rows have no answer. The
rows are small talk about common complaints, not medical advice. The same every time.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Iterator
from pathlib import Path

ROWS = 6000
COLUMNS = ("department", "title", "ask", "answer")

DEPARTMENTS = ("普通外科", "骨科", "烧伤科", "泌尿外科", "神经外科", "心胸外科")
# complaint, what helps, when to see a doctor
COMPLAINTS = (
    ("手指被纸划伤", "用清水冲洗，擦干后贴创可贴", "红肿或流脓"),
    ("膝盖擦破皮", "先冲掉沙土，再用碘伏轻轻擦拭", "伤口很深或有异物"),
    ("脚踝扭伤", "休息、冰敷，把脚垫高", "不能站立或明显变形"),
    ("手被热水烫红", "马上用流动的凉水冲十五分钟", "起了大水泡"),
    ("搬东西后腰痛", "少弯腰，热敷，适当活动", "腿麻或没有力气"),
    ("落枕", "慢慢转动脖子，热敷", "一周没有好转"),
    ("拆线后发痒", "不要抓，保持干燥", "伤口裂开"),
    ("指甲长进肉里", "温水泡脚，穿宽松的鞋", "红肿疼痛加重"),
    ("鼻子流血", "身体前倾，捏住鼻翼十分钟", "半小时止不住"),
    ("额头碰了一个包", "冷敷，少按压", "头晕、呕吐"),
    ("手腕酸痛", "减少重复动作，适当休息", "夜里痛醒"),
    ("脚底长鸡眼", "换合脚的鞋，用软垫", "走路疼痛"),
    ("伤口结痂", "让它自己脱落", "痂下有脓"),
    ("肩膀抬不高", "每天慢慢做伸展", "疼痛越来越重"),
    ("蚊子咬后肿了", "冷敷，不要抓破", "发热或红肿扩大"),
)
WHO = ("我", "我妈妈", "我爸爸", "我的孩子", "我同事", "我奶奶", "邻居家的老人")
SINCE = ("昨天", "今天早上", "三天前", "上个星期", "刚才", "前天晚上", "打球的时候", "做饭的时候")
WORRY = ("需要去医院吗？", "该怎么办？", "多久能好？", "能洗澡吗？", "要不要吃药？", "可以运动吗？")
MORE = (
    "没有别的不舒服。",
    '他说"不太疼"，但我不放心。',
    "家里有碘伏,纱布,创可贴。",
    "以前也有过一次\n那次自己好了。",
    "年纪大了，有点担心。",
    "",
)
GREET = ("您好，", "你好！", "", "不用太担心，")
END = ("祝早日康复。", "希望对您有帮助。", "", "有问题可以再问。", "注意休息，清淡饮食。")
BLANK = 200  # one row in so many has no answer


def rows() -> Iterator[tuple[str, str, str, str]]:
    """Give the rows, the same every time."""
    chance = random.Random(20231018)
    for number in range(ROWS):
        complaint, help_, sign = chance.choice(COMPLAINTS)
        who, since, worry = chance.choice(WHO), chance.choice(SINCE), chance.choice(WORRY)
        title = chance.choice((f"{complaint}{worry}", f"{who}{complaint}", f'"{complaint}"，{worry}', " "))
        ask = f"{who}{since}{complaint}，{chance.choice(MORE)}{worry}"
        told = (f"1. {help_}；\r\n2. 如果{sign}，请到医院检查。", f"{help_}。如果{sign}，就要去医院看看。")
        answer = f"{chance.choice(GREET)}{chance.choice(told)}{chance.choice(END)}"
        yield chance.choice(DEPARTMENTS), title, ask, "  " if number % BLANK == BLANK - 1 else answer


def main() -> None:
    """Write the table beside this file."""
    with Path(__file__).with_name("surgery.csv").open("w", encoding="gb18030", newline="") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        table.writerows(rows())


if __name__ == "__main__":
    main()
