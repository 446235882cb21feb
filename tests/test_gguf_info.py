"""What a GGUF header says, and every way it can lie."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
from click.testing import CliRunner

from models.tensors import Tensor, constant, vector, write_gguf
from models.tiny import TinyOptions, tokenizer_metadata
from sssd_local.cli import main
from sssd_local.config import ModelConfig
from sssd_local.engine.ability import RECURRENT
from sssd_local.engine.model import Model
from sssd_local.errors import ModelError
from sssd_local.gguf_cache import cache_shape
from sssd_local.gguf_check import alphabet, check_model_file
from sssd_local.gguf_file import TENSOR_TYPES, GGUFArray, read_header
from sssd_local.gguf_info import describe

TinyModel = Callable[..., Path]


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def file(tmp_path: Path, *parts: bytes, num_tensors: int = 0, num_keys: int = 0) -> Path:
    """A GGUF file of the given bytes after the counts."""
    path = tmp_path / "made.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, num_tensors, num_keys) + b"".join(parts))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        check_model_file(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_types_have_the_sizes_of_the_gguf_package() -> None:
    for kind, (block, size) in gguf.GGML_QUANT_SIZES.items():
        # The package counts two floats more in Q8_1, which no file holds.
        if kind in TENSOR_TYPES and kind.name != "Q8_1":
            assert TENSOR_TYPES[kind] == (kind.name, block, size)


SPECULATION = {"mamba": "chain", "lfm2": "chain", "qwen35": "chain", "qwen3next": "chain"}


@pytest.mark.parametrize(
    "kind", ["llama", "moe", "gemma", "gpt2", "qwen2", "qwen3", "phi3", *SPECULATION]
)
def test_the_header_agrees_with_the_loaded_model(tiny_model: TinyModel, kind: str) -> None:
    path = tiny_model(kind)
    info, header = describe(path), check_model_file(path)
    model = Model(path, ModelConfig())
    facts = model.facts
    assert info.architecture == facts.architecture
    assert info.parameters == facts.num_parameters
    assert info.trained_ctx == facts.trained_ctx
    assert info.vocabulary == facts.num_vocab
    assert info.sliding_window == facts.sliding_window
    assert (info.architecture in RECURRENT) is facts.recurrent
    assert info.speculation == SPECULATION.get(kind, "tree")
    assert info.chat_template
    assert cache_shape(header) == facts.cache
    model.close()


def test_quantisation_and_memory(tiny_model: TinyModel) -> None:
    info = describe(tiny_model(quant="Q4_0"), (100, 512), "f32")
    assert info.quantisation == "Q4_0"
    # 128 values a token, and 100 tokens take 256 cells.
    assert [item.kv_bytes for item in info.memory] == [256 * 128 * 4, 512 * 128 * 4]
    assert info.memory[0].total_bytes == info.weight_bytes + 256 * 128 * 4
    assert describe(tiny_model()).quantisation == "F32"


def test_states_are_counted_with_their_copies(tiny_model: TinyModel) -> None:
    (item,) = describe(tiny_model("lfm2"), (256,)).memory
    # Of two layers one is attention with 32 + 32 values; the other's state has 2 × 64, kept for
    # the last token and 15 before it.
    assert (item.kv_bytes, item.small_kv_bytes) == (256 * 64 * 2, 256 * 64 * 2)
    assert item.state_bytes == 16 * 128 * 4
    (item,) = describe(tiny_model("mamba"), (256,)).memory
    assert (item.kv_bytes, item.state_bytes) == (0, 2 * 4864 * 4)


def test_a_sliding_window_takes_less_memory_for_chains(tiny_model: TinyModel) -> None:
    info = describe(tiny_model("gemma", ctx_length=4096), (4096,))
    (item,) = info.memory
    assert item.kv_bytes == 4096 * 128 * 2
    assert item.small_kv_bytes == (4096 + 768) * 64 * 2
    assert info.speculation == "tree"
    (line,) = [line for line in info.lines() if line.startswith("memory")]
    assert line.endswith("(1.0 MiB of it f16 cache; 416.0 KiB less without swa_full)")


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("llama", "tree"),
        ("moe", "tree (each token may need other experts, so wide drafts cost more)"),
        ("gemma", "tree (the cache of its sliding window is kept whole for them)"),
        ("lfm2", "chain (its state has no branches)"),
        (
            "mamba",
            "chain (its state has no branches, and a wrong draft costs a second evaluation)",
        ),
    ],
)
def test_what_drafts_a_model_can_check(tiny_model: TinyModel, kind: str, line: str) -> None:
    lines = dict(text.split(None, 1) for text in describe(tiny_model(kind)).lines())
    assert lines["speculation"] == line


def test_a_cache_of_another_kind_is_told(tmp_path: Path) -> None:
    info = describe(write(tmp_path / "m.gguf", "deepseek4"))
    assert info.speculation == "none"
    assert info.speculation_note == "its kind of cache was not tested"


def test_long_arrays_are_counted_and_the_vocabulary_kept(tmp_path: Path) -> None:
    metadata = {
        "general.numbers": [1, 2, 3],
        "general.long": [1.5] * 5000,
        "general.words": ["a", "b"],
        "tokenizer.ggml.tokens": ["x", "é", ""],
    }
    path = write_gguf(tmp_path / "m.gguf", "llama", metadata, [vector("a.weight", 4, 1)])
    header = read_header(path)
    assert header.metadata["general.numbers"].values == (1, 2, 3)
    assert header.metadata["general.long"] == GGUFArray(6, 5000)
    assert header.metadata["general.words"] == GGUFArray(8, 2)
    assert header.tokens == (b"x", "é".encode(), b"")
    assert [(t.name, t.shape, t.num_bytes) for t in header.tensors] == [("a.weight", (4,), 16)]


def test_counts_beyond_the_file(tmp_path: Path) -> None:
    assert "number of tensors is 1152921504606846976" in refusal(file(tmp_path, num_tensors=2**60))
    assert "number of keys is 1152921504606846976" in refusal(file(tmp_path, num_keys=2**60))
    path = file(tmp_path, struct.pack("<Q", 2**63), num_keys=1)
    assert "number of keys is 1, more" in refusal(path)
    long_name = file(tmp_path, struct.pack("<Q", 2**63), b"x" * 8, num_keys=1)
    assert "the name of key 0 ends after the file" in refusal(long_name)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (struct.pack("<I", 99), "has the unknown type 99"),
        (struct.pack("<IQ", 8, 2**60), "the text of 'k' ends after the file"),
        (struct.pack("<IIQ", 9, 8, 2**60), "the length of 'k' is 1152921504606846976"),
        (struct.pack("<IIQ", 9, 4, 2**62), "the length of 'k' is 4611686018427387904"),
        (struct.pack("<IIQ", 9, 9, 1), "an array of the unsupported type 9"),
        (struct.pack("<IIQ", 9, 77, 1), "an array of the unsupported type 77"),
        (struct.pack("<IIQQ", 9, 8, 1, 2**40), "a text of 'k' ends after the file"),
        (struct.pack("<I", 10), "the file ends before the value of 'k'"),
    ],
)
def test_absurd_values(tmp_path: Path, value: bytes, message: str) -> None:
    assert message in refusal(file(tmp_path, text("k"), value, num_keys=1))


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (text("t" * 64), "tensor 0 has an impossible name"),
        (text("t") + struct.pack("<I", 2**31), "has 2147483648 dimensions"),
        (text("t") + struct.pack("<Iq", 1, -1), "impossible shape (-1,)"),
        (text("t") + struct.pack("<Iq", 1, 0), "impossible shape (0,)"),
        (text("t") + struct.pack("<Iqq", 2, 2**40, 2**40), "impossible shape"),
        (text("t") + struct.pack("<IqiQ", 1, 33, 8, 0), "are not whole blocks"),
        (text("t") + struct.pack("<IqiQ", 1, 32, 0, 64), "is not where it should be"),
        (text("t") + struct.pack("<IqiQ", 1, 2**50, 0, 0), "bytes after the file"),
    ],
)
def test_absurd_tensors(tmp_path: Path, tensor: bytes, message: str) -> None:
    assert message in refusal(file(tmp_path, tensor.ljust(64, b"\0"), num_tensors=1))


def test_versions_and_byte_order(tmp_path: Path) -> None:
    path = tmp_path / "v.gguf"
    for version, message in (
        (struct.pack("<I", 1), "version 1 is not supported"),
        (struct.pack("<I", 4), "version 4 is not supported"),
        (struct.pack(">I", 3), "byte order"),
        (b"", "ends before its version"),
    ):
        path.write_bytes(b"GGUF" + version)
        assert message in refusal(path)


def write(path: Path, architecture: str = "llama", **changes: Any) -> Path:
    """A file with a header that passes, and the given keys of the architecture changed."""
    chosen = {"block_count": 1, "embedding_length": 4, "context_length": 8, **changes}
    metadata = {f"{architecture}.{key}".replace("__", "."): value for key, value in chosen.items()}
    metadata |= tokenizer_metadata(TinyOptions().num_tokens)
    return write_gguf(path, architecture, metadata, [vector("a.weight", 4, 1)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_count": 0}, "llama.block_count is 0"),
        ({"block_count": 513}, "llama.block_count is 513"),
        ({"embedding_length": 2**31}, "llama.embedding_length is 2147483648"),
        ({"context_length": 0}, "llama.context_length is 0"),
        ({"attention__head_count_kv": 2**31}, "head_count_kv is 2147483648"),
        ({"rope__scaling__type": "magic"}, "rope.scaling.type is 'magic'"),
        ({"expert_count": 2000}, "it uses 0 of 2000 experts"),
        ({"expert_count": 4}, "it uses 0 of 4 experts"),
        ({"expert_used_count": 1}, "it uses 1 of 0 experts"),
        ({"expert_count": 4, "expert_used_count": 2, "expert_group_count": 3}, "groups"),
        ({"nextn_predict_layers": 2}, "predicts more layers than it has"),
    ],
)
def test_sizes_that_would_end_the_process(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    check_model_file(write(tmp_path / "good.gguf"))
    assert message in refusal(write(tmp_path / "bad.gguf", **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention__layer_norm_rms_epsilon": -1e-5}, "rms_epsilon is -9.99"),
        ({"attention__layer_norm_epsilon": float("nan")}, "layer_norm_epsilon is nan"),
        ({"attention__head_count": 1, "rope__dimension_count": 3}, "dimension_count is 3"),
        ({"attention__head_count": 1, "rope__dimension_count": 6}, "dimension_count is 6"),
        ({"attention__head_count": 1, "rope__dimension_count": 0}, "dimension_count is 0"),
        ({"attention__sliding_window": 8, "attention__sliding_window_pattern": 1}, "no layer"),
    ],
)
def test_what_would_abort_or_hang_at_the_first_token(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    assert message in refusal(write(tmp_path / "bad.gguf", **changes))


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("blk.0.attn_norm.weight", 26, "holds whole numbers"),
        ("blk.0.ffn_up.weight", 24, "holds whole numbers"),
        ("blk.0.attn_norm.weight", 8, "is quantised"),
    ],
)
def test_tensors_of_types_that_cannot_be_computed_with(
    tmp_path: Path, name: str, kind: int, message: str
) -> None:
    path = tmp_path / "m.gguf"
    metadata = {"llama.block_count": 1, "llama.embedding_length": 4, "llama.context_length": 8}
    tensor = Tensor(name, (128,), constant(0.0))
    write_gguf(path, "llama", metadata | tokenizer_metadata(300), [tensor])
    # The type follows the name, the number of dimensions and the one dimension.
    data = bytearray(path.read_bytes())
    place = data.index(name.encode()) + len(name) + 4 + 8
    data[place : place + 4] = struct.pack("<i", kind)
    path.write_bytes(data)
    assert message in refusal(path)


def test_files_that_are_no_model_that_writes(tmp_path: Path) -> None:
    for name, message in (("bert", "for embeddings"), ("clip", "image part"), ("t5", "encoder")):
        assert message in refusal(write(tmp_path / "m.gguf", name))
    assert "a diffusion model" in refusal(write(tmp_path / "m.gguf", "llada"))
    assert "for embeddings" in refusal(write(tmp_path / "m.gguf", "qwen3", pooling_type=3))
    assert "for embeddings" in refusal(write(tmp_path / "m.gguf", attention__causal=False))
    metadata = {"general.type": "adapter"}
    path = write_gguf(tmp_path / "a.gguf", "llama", metadata, [vector("a.weight", 4, 1)])
    assert "holds no model but adapter data" in refusal(path)
    path = write_gguf(tmp_path / "v.gguf", "llama", tokenizer_metadata(300), [])
    assert "holds a vocabulary but no weights" in refusal(path)
    path = write_gguf(tmp_path / "n.gguf", "llama", {
        "llama.block_count": 1, "llama.embedding_length": 4, "llama.context_length": 8,
        "tokenizer.ggml.model": "no_vocab"}, [vector("a.weight", 4, 1)])  # fmt: skip
    assert "it has no vocabulary" in refusal(path)


def test_a_start_token_that_is_not_named(tmp_path: Path) -> None:
    metadata = {"llama.block_count": 1, "llama.embedding_length": 4, "llama.context_length": 8}
    metadata |= tokenizer_metadata(300) | {"tokenizer.ggml.pre": "glm4"}
    path = write_gguf(tmp_path / "m.gguf", "llama", metadata, [vector("a.weight", 4, 1)])
    check_model_file(path)
    del metadata["tokenizer.ggml.bos_token_id"]
    write_gguf(path, "llama", metadata, [vector("a.weight", 4, 1)])
    assert "does not say which" in refusal(path)


def test_two_tokens_with_one_text(tiny_model: TinyModel, tmp_path: Path) -> None:
    path = tmp_path / "twins.gguf"
    path.write_bytes(tiny_model().read_bytes().replace(b"<0x41>", b"<0x42>", 1))
    assert "two tokens of its vocabulary have the same text" in refusal(path)


def split_parts(folder: Path, count: int = 3) -> list[Path]:
    paths = []
    for index in range(count):
        value = gguf.gguf_writer.GGUFValue
        kind = gguf.GGUFValueType.UINT16
        metadata = {"split.no": value(index, kind), "split.count": value(count, kind)}
        if index == 0:
            metadata |= {
                "llama.block_count": 1, "llama.embedding_length": 4, "llama.context_length": 8,
                **tokenizer_metadata(300),
            }  # fmt: skip
        path = folder / f"big-{index + 1:05d}-of-{count:05d}.gguf"
        tensors = [vector(f"blk.{index}.weight", 4, 1)]
        paths.append(write_gguf(path, "llama", metadata, tensors))
    return paths


def test_split_models(tmp_path: Path) -> None:
    first, second, third = split_parts(tmp_path)
    info = describe(first)
    assert (info.parts, info.parameters) == (3, 12)
    assert "is a later part of a split model; give big-00001-of-00003.gguf" in refusal(second)
    third.write_bytes(second.read_bytes())
    with pytest.raises(ModelError, match="is not part 3 of"):
        check_model_file(first)
    third.write_bytes(third.read_bytes()[:-40])
    with pytest.raises(ModelError, match="is damaged"):
        check_model_file(first)
    third.unlink()
    assert "one of 3 parts, and big-00003-of-00003.gguf is missing" in refusal(first)
    renamed = first.rename(tmp_path / "model.gguf")
    assert "its name does not say which" in refusal(renamed)


def test_a_vocabulary_without_bytes_refuses_only_what_it_cannot_spell(
    tiny_model: TinyModel, tmp_path: Path
) -> None:
    path = tmp_path / "few.gguf"
    path.write_bytes(tiny_model().read_bytes().replace(b"<0xC3>", b"<zxC3>"))
    assert alphabet(check_model_file(path)).missing_bytes == {0xC3}
    model = Model(path, ModelConfig())
    assert len(model.tokenize("the rain", add_special=True, parse_special=True)) > 2
    with pytest.raises(ModelError, match="has no token for 'é'"):
        model.tokenize("café", add_special=True, parse_special=False)
    model.close()
    whole = alphabet(check_model_file(tiny_model()))
    assert not whole.missing_bytes
    assert whole.unknown("é\ud800") is None


def test_info_for_people_and_programs(tiny_model: TinyModel) -> None:
    path = str(tiny_model())
    result = CliRunner().invoke(main, ["info", path, "--ctx", "256"])
    assert result.exit_code == 0
    lines = dict(line.split(None, 1) for line in result.stdout.splitlines())
    assert lines["speculation"] == "tree"
    assert lines["architecture"] == "llama, 2 layers, width 64"
    assert lines["memory"].endswith("at 256 tokens (64.0 KiB of it f16 cache)")
    result = CliRunner().invoke(main, ["info", path, "--ctx", "256", "--ctx", "300", "--json"])
    found = json.loads(result.stdout)
    assert [item["ctx"] for item in found["memory"]] == [256, 300]
    assert found["speculation"] == "tree"


def test_a_name_in_the_file_cannot_steer_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    metadata = {"general.name": "a\x1b[2Jb"} | {
        "llama.block_count": 1, "llama.embedding_length": 4, "llama.context_length": 8,
    }  # fmt: skip
    tensors = [vector("a.weight", 4, 1)]
    write_gguf(path, "llama", metadata | tokenizer_metadata(300), tensors)
    assert "a\\x1b[2Jb" in CliRunner().invoke(main, ["info", str(path)]).stdout


def test_info_of_a_bad_file_is_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["info", str(tmp_path / "no.gguf")])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
