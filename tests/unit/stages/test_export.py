"""The stage: files, Modelfile and summary of each format; a folder is the merged model in another dtype."""

import json

import numpy as np
import pytest

import tiny
from tunemake import schema
from tunemake.chat_templates import conversation, read_chat_template
from tunemake.export_formats import exported_files
from tunemake.faults import InputError, StageError
from tunemake.model_folder import read_config, set_chat_template
from tunemake.stages import EVENTS, Job
from tunemake.stages.export import refuse, run
from tunemake.tensors import FLOATS, Files, read_model
from tunemake_builtins import prompts as own_prompts
from tunemake_builtins import xtuner_prompts


def template_of(name):
    found = getattr(own_prompts, name, None) or getattr(xtuner_prompts, name)
    filled = schema.with_defaults(found, schema.load_schema("prompt_template.schema.json"))
    del filled["summary"]
    return filled


def job_of(place, formats, *, template="chatml", **parameters):
    """A job on a tiny merged model that speaks by a template."""
    merged, work = place / "merged", place / "work"
    if not merged.exists():
        tiny.write_llama(merged)
    set_chat_template(merged, template_of(template))
    (merged / "LICENSE").write_text("free")
    (merged / "log.txt").write_text("of its making")
    work.mkdir()
    told = {"formats": formats, "system": None, "parameters": {}, "project": "my model", **parameters}
    return Job(place, work, {**told, "prompt_template": template_of(template)}, {}, {"merged": merged})


def metadata(path):
    from gguf import GGUFReader

    return {key: field.contents() for key, field in GGUFReader(str(path)).fields.items()}


def test_every_format_comes_out(tmp_path):
    formats = ["gguf-q8_0", "safetensors-fp32", "gguf-f16", "safetensors-fp16"]
    job = job_of(tmp_path, formats, parameters={"temperature": 0.5}, system="Be kind.")
    facts = run(job)
    files = {str(path.relative_to(job.work)) for path in job.work.rglob("*") if path.is_file()}
    assert set(exported_files(formats, "my model")) <= files
    summary = json.loads((job.work / "export.json").read_text())
    assert list(facts["formats"]) == list(summary)
    assert set(summary) == set(formats)
    assert summary["gguf-q8_0"] == {
        "file": "my-model-Q8_0.gguf", "bytes": (job.work / "my-model-Q8_0.gguf").stat().st_size,
        "tensors": {"f32": 5, "q8_0": 15},
    }  # fmt: skip
    modelfile = (job.work / "Modelfile").read_text("utf-8").splitlines()
    assert modelfile[0] == "FROM ./my-model-Q8_0.gguf"
    assert modelfile[2:] == ['SYSTEM "Be kind."', 'PARAMETER stop "<|im_end|>"', "PARAMETER temperature 0.5"]
    assert (job.work / "LICENSE").read_text() == "free"
    assert not list(job.work.rglob("log.txt"))


@pytest.mark.parametrize(("name", "dtype"), [("safetensors-fp32", "F32"), ("safetensors-fp16", "F16")])
def test_a_folder_is_the_merged_model_in_another_dtype(name, dtype, tmp_path):
    job = job_of(tmp_path, [name])
    run(job)
    merged, made = tmp_path / "merged", job.work / name
    before, after = read_model(merged), read_model(made)
    assert before.keys() == after.keys()
    with Files() as files:
        for key, tensor in after.items():
            assert tensor.dtype == dtype
            wanted = files.load(before[key]).astype(FLOATS[dtype]).astype(np.float32)
            assert np.array_equal(files.load(tensor), wanted)
    assert read_config(made)["torch_dtype"] == {"F32": "float32", "F16": "float16"}[dtype]
    for companion in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "LICENSE"):
        assert (made / companion).read_bytes() == (merged / companion).read_bytes()
    assert not (job.work / "Modelfile").exists()


@pytest.mark.parametrize(("template", "bos"), [("chatml", False), ("llama2_chat", True), ("internlm_chat", True)])
def test_bos_comes_once_and_where_the_template_has_it(template, bos, tmp_path):
    tiny.write_llama(tmp_path / "merged")
    config = json.loads((tmp_path / "merged" / "tokenizer_config.json").read_text())
    config["bos_token"] = "<|im_start|>" if template == "chatml" else "<|endoftext|>"
    (tmp_path / "merged" / "tokenizer_config.json").write_text(json.dumps(config))
    job = job_of(tmp_path, ["gguf-f16"], template=template)
    run(job)
    told = metadata(job.work / "my-model-F16.gguf")
    assert told["tokenizer.ggml.add_bos_token"] is bos
    own = read_chat_template(tmp_path / "merged")
    assert told["tokenizer.chat_template"] == own.source
    assert own.render(conversation([("Hello", "")])).startswith("<|endoftext|>") is bos
    assert told["tokenizer.ggml.eos_token_id"] == 2
    assert told["general.name"] == "my model"


def test_a_template_that_the_merged_model_does_not_speak_by_is_told(tmp_path):
    job = job_of(tmp_path, ["gguf-f16"])
    other = Job(job.root, job.work, {**job.parameters, "prompt_template": template_of("llama2_chat")}, {}, job.inputs)
    with pytest.raises(StageError, match="the merged model's chat template is not the one of the prompt template"):
        run(other)


def test_the_bases_own_chat_template_is_looked_up_in_the_base(tmp_path):
    job = job_of(tmp_path, ["gguf-f16"])
    base = tmp_path / "base" / "model"
    base.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (base / name).write_bytes((tmp_path / "merged" / name).read_bytes())
    own = template_of("chatml") | {"from_tokenizer": True}
    run(Job(job.root, job.work, {**job.parameters, "prompt_template": own}, {}, {**job.inputs, "base": base.parent}))
    assert '<|im_start|>user\\n" }}{{- .Content }}' in (job.work / "Modelfile").read_text("utf-8")


def test_an_architecture_without_a_gguf_is_one_line_and_its_folders_can_be_made(tmp_path):
    job = job_of(tmp_path, ["safetensors-fp16", "gguf-f16"])
    config = read_config(tmp_path / "merged") | {"architectures": ["GPTNeoXForCausalLM"]}
    (tmp_path / "merged" / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError) as caught:
        run(job)
    assert str(caught.value) == (
        "export.formats: no GGUF of this architecture; expected LlamaForCausalLM, MistralForCausalLM, "
        "InternLM2ForCausalLM, Qwen2ForCausalLM, got GPTNeoXForCausalLM; take the gguf formats out of export.formats"
    )
    assert not list(job.work.glob("*"))
    run(Job(job.root, job.work, {**job.parameters, "formats": ["safetensors-fp16"]}, {}, job.inputs))


def test_what_has_no_gguf_is_told_of_the_base_before_a_training(tmp_path):
    tiny.write_llama(tmp_path)
    refuse(tmp_path, ["gguf-q8_0", "safetensors-fp16"])
    told = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    (tmp_path / "tokenizer.json").write_text(json.dumps(told | {"pre_tokenizer": {"type": "Whitespace"}}), "utf-8")
    with pytest.raises(InputError, match=r"export\.formats: no GGUF of this tokenizer"):
        refuse(tmp_path, ["gguf-q8_0"])
    refuse(tmp_path, ["safetensors-fp16"])


def test_tensors_that_stay_wide_are_counted(tmp_path):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    size = tiny.write_tokenizer(tmp_path / "merged")
    config = LlamaConfig(vocab_size=size, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
                         num_attention_heads=4, max_position_embeddings=64, tie_word_embeddings=True)  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "merged")
    job = job_of(tmp_path, ["gguf-q8_0"])
    run(job)
    assert json.loads((job.work / "export.json").read_text())["gguf-q8_0"]["tensors"] == {"f32": 3, "f16": 1, "q8_0": 7}
    said = [json.loads(line).get("say") for line in (job.work / EVENTS).read_text().splitlines()]
    assert "my-model-Q8_0.gguf: 1 tensors are float16: their rows are no multiple of 32 values" in said


def test_what_a_modelfile_cannot_hold_ends_the_stage_before_the_weights(tmp_path):
    job = job_of(tmp_path, ["gguf-f16"], system='a """')
    with pytest.raises(StageError, match="a Modelfile cannot hold three quotes in a row"):
        run(job)
    assert not list(job.work.glob("*.gguf"))
