"""Names of models on the hub, and the files that make one up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sssd_local.errors import ModelError
from sssd_local.hub_files import (
    PREFERRED,
    HubName,
    ModelFiles,
    choose,
    group,
    matching,
    parse_hub_name,
)

SPLIT = tuple(f"big/m-Q6_K-0000{part}-of-00003.gguf" for part in (1, 2, 3))
NAME = HubName("a/b")


@pytest.mark.parametrize(
    ("text", "repo", "choice"),
    [
        ("hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF", "Qwen/Qwen2.5-0.5B-Instruct-GGUF", ""),
        ("hf:a/b:q4_k_m", "a/b", "q4_k_m"),
        ("hf:a/b:", "a/b", ""),
        ("hf:/a/b/", "a/b", ""),
        ("hf:a/b:folder/m.gguf", "a/b", "folder/m.gguf"),
    ],
)
def test_names_are_read(text: str, repo: str, choice: str) -> None:
    assert parse_hub_name(text) == HubName(repo, choice)


@pytest.mark.parametrize(
    "text", ["hf:", "hf:a", "hf:a/b/c", "hf:a/..", "hf:a--b/c", "hf:a b/c", "hf:./b", "hf:a/b\n"]
)
def test_what_names_no_repository_is_an_error(text: str) -> None:
    with pytest.raises(ModelError, match="hf:USER/REPO or hf:USER/REPO:Q4_K_M"):
        parse_hub_name(text)


def test_a_name_is_written_as_it_was_read() -> None:
    for text in ("hf:a/b", "hf:a/b:Q4_0"):
        assert str(parse_hub_name(text)) == text


@pytest.mark.parametrize(
    ("name", "quantisation"),
    [
        ("Qwen3-0.6B-Q8_0.gguf", "Q8_0"),
        ("qwen2.5-0.5b-instruct-q4_k_m.gguf", "Q4_K_M"),
        ("m-Q4_K_M_v2.gguf", "Q4_K_M"),
        ("m-Q4_0_4_4.gguf", "Q4_0_4_4"),
        ("m-Q3_K_XL.gguf", "Q3_K_XL"),
        ("mistral-7b.Q4_K_S.gguf", "Q4_K_S"),
        ("Qwen3-4B-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("m-IQ3_XXS.gguf", "IQ3_XXS"),
        ("m-TQ1_0.gguf", "TQ1_0"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("qwen-fp16.gguf", "F16"),
        ("m-BF16-00001-of-00002.gguf", "BF16"),
        ("UD-Q2_K_XL/m-00001-of-00002.gguf", "UD-Q2_K_XL"),
        ("Q4_0/m-Q8_0.gguf", "Q8_0"),
        ("Q4_0-test-Q5_1.gguf", "Q5_1"),
        ("QWEN2.gguf", ""),
        ("model.gguf", ""),
    ],
)
def test_quantisations_are_read_from_names(name: str, quantisation: str) -> None:
    assert ModelFiles((name,)).quantisation == quantisation


def test_stems_are_names_without_folder_part_and_ending() -> None:
    assert ModelFiles(SPLIT).stem == "m-Q6_K"
    assert ModelFiles(("a/Qwen3-0.6B-Q8_0.gguf",)).stem == "Qwen3-0.6B-Q8_0"
    assert ModelFiles(("M.GGUF",)).stem == "M"


def test_files_are_grouped_and_what_is_no_model_left_out() -> None:
    others = ["README.md", "mmproj-F16.gguf", "m.imatrix.gguf", "mtp-m.gguf", "eagle3-m.gguf"]
    assert group([*reversed(SPLIT), "a.gguf", *others, "a.gguf"]) == [
        ModelFiles(("a.gguf",)),
        ModelFiles(SPLIT),
    ]


@pytest.mark.parametrize("missing", range(3))
def test_a_split_model_without_all_its_parts_is_none(missing: int) -> None:
    assert group(SPLIT[:missing] + SPLIT[missing + 1 :]) == []


@given(st.lists(st.sampled_from([*SPLIT, "a.gguf", "b-Q4_0.gguf", "mmproj.gguf", "c.bin"])))
def test_every_model_is_whole_and_its_files_are_there(names: list[str]) -> None:
    models = group(names)
    files = [name for model in models for name in model.names]
    assert len(files) == len(set(files))
    assert set(files) <= set(names)
    assert (ModelFiles(SPLIT) in models) == (set(SPLIT) <= set(names))


@given(st.sets(st.sampled_from(PREFERRED), min_size=1))
def test_without_a_choice_the_first_of_the_preferred_is_taken(labels: set[str]) -> None:
    models = group(f"m-{label}.gguf" for label in labels)
    chosen = choose(models, NAME)
    assert chosen.quantisation == min(labels, key=PREFERRED.index)


def test_q4_k_m_is_preferred_then_q4_0_then_q8_0() -> None:
    assert PREFERRED[:3] == ("Q4_K_M", "Q4_0", "Q8_0")


def test_a_choice_is_a_quantisation_in_any_case() -> None:
    models = group(["m-Q4_0.gguf", "m-UD-Q4_K_M.gguf", "m-Q4_K_M.gguf", *SPLIT])
    assert choose(models, HubName("a/b", "q4_0")).first == "m-Q4_0.gguf"
    assert choose(models, HubName("a/b", "Q4_K_M")).first == "m-Q4_K_M.gguf"
    assert choose(models, HubName("a/b", "ud-q4_k_m")).first == "m-UD-Q4_K_M.gguf"
    assert choose(models, HubName("a/b", "q6_k")).names == SPLIT


def test_unsloths_form_stands_in_for_the_plain_one() -> None:
    models = group(["m-UD-Q4_K_M.gguf", "m-Q8_0.gguf"])
    assert choose(models, HubName("a/b", "q4_k_m")).first == "m-UD-Q4_K_M.gguf"
    assert choose(models, NAME).first == "m-UD-Q4_K_M.gguf"


def test_a_choice_is_a_file_by_its_name_or_path() -> None:
    models = group(["x/m.gguf", "y/m.gguf", "m.gguf", "n.gguf", *SPLIT])
    assert choose(models, HubName("a/b", "x/M.gguf")).first == "x/m.gguf"
    assert choose(models, HubName("a/b", "m.gguf")).first == "m.gguf"
    assert choose(models, HubName("a/b", "m-Q6_K-00002-of-00003.gguf")).names == SPLIT
    with pytest.raises(ModelError, match="several models of a/b could be meant"):
        choose(models[2:], HubName("a/b", "m.gguf"))


def test_one_model_needs_no_choice() -> None:
    assert choose(group(["model.gguf"]), NAME).first == "model.gguf"
    assert choose(group(["m-Q2_K.gguf"]), NAME).first == "m-Q2_K.gguf"


def test_an_unknown_choice_is_told_with_all_there_are() -> None:
    with pytest.raises(ModelError) as error:
        choose(group(["m-Q4_0.gguf", "n-Q4_0.gguf", "model.gguf"]), HubName("a/b", "Q5_0"))
    assert str(error.value) == "a/b has no Q5_0; there are Q4_0, model.gguf"


def test_several_that_could_be_meant_are_told_with_how_to_name_one() -> None:
    with pytest.raises(ModelError) as error:
        choose(group(["m-Q4_0.gguf", "n-Q4_0.gguf"]), HubName("a/b"))
    assert str(error.value) == (
        "several models of a/b could be meant; name the file, as in hf:a/b:m-Q4_0.gguf "
        "(there are m-Q4_0.gguf, n-Q4_0.gguf)"
    )
    assert len(matching(group(["a.gguf", "b.gguf"]), "")) == 2


def test_a_repository_without_models_is_told() -> None:
    with pytest.raises(ModelError, match="a/b holds no complete GGUF model"):
        choose(group(["model.safetensors", *SPLIT[:2]]), NAME)
