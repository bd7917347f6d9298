from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from sentencepiece import SentencePieceTrainer

from ltx_models.convert import convert
from ltx_models.errors import CheckpointError
from ltx_models.pipeline.text_to_video import LTXPipeline
from ltx_models.text_encoders.t5 import load_text_encoder, relative_position_buckets
from ltx_models.text_encoders.tokenizer import MAX_TOKENS, Tokenizer
from tests.models.checkpoint.raw_safetensors import read_raw, write_raw
from tests.models.conftest import TOKENIZER, Golden, relative_error


def test_padding_changes_nothing(golden_098: Golden) -> None:
    encoder = load_text_encoder(golden_098.text_encoder, mx.float32)
    ids = golden_098.mx("t5.input_ids")[:1]
    real = int(golden_098["t5.attention_mask"][0].sum())
    padded = encoder(ids, golden_098.mx("t5.attention_mask")[:1])[:, :real]
    alone = encoder(ids[:, :real], mx.ones((1, real), mx.int32))
    assert real < ids.shape[1]
    assert mx.allclose(padded, alone, atol=1e-5)


def test_float16_becomes_bfloat16(golden_098: Golden) -> None:
    encoder = load_text_encoder(golden_098.text_encoder, mx.float16)
    assert encoder.shared.weight.dtype == mx.bfloat16


def test_buckets_are_those_of_the_paper() -> None:
    """32 buckets: 16 a sign, distances below 8 exact, then logarithmic up to 128, beyond which all share one."""
    distances = np.array([0, -1, -7, -8, -15, -16, -127, -128, -255, 1, 7, 8, 128])
    assert relative_position_buckets(distances, 32, 128).tolist() == [0, 1, 7, 8, 9, 10, 15, 15, 15, 17, 23, 24, 31]


@pytest.mark.parametrize(("change", "words"), [({"feed_forward_proj": "relu"}, "feed_forward_proj"), (None, "d_ff")])
def test_a_config_of_another_model_is_refused(
    golden_098: Golden, tmp_path: Path, change: dict[str, str] | None, words: str
) -> None:
    folder = Path(shutil.copytree(golden_098.text_encoder, tmp_path / "encoder"))
    config = json.loads((folder / "config.json").read_text())
    config = config | change if change else {key: value for key, value in config.items() if key != "d_ff"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=words):
        load_text_encoder(folder, mx.float32)


def test_a_missing_shard_is_named(golden_098: Golden, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(golden_098.text_encoder, tmp_path / "encoder"))
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match="model-00002-of-00003"):
        load_text_encoder(folder, mx.float32)


def test_float16_shards_are_read_where_there_are_no_others(golden_098: Golden, tmp_path: Path) -> None:
    """They are named as the hub's float16 variants are."""
    folder = Path(shutil.copytree(golden_098.text_encoder, tmp_path / "encoder"))
    index = folder / "model.safetensors.index.json"
    for path in folder.glob("model-*.safetensors"):
        path.rename(folder / path.name.replace("model-", "model.fp16-"))
    text = index.read_text().replace("model-", "model.fp16-")
    index.with_name("model.safetensors.index.fp16.json").write_text(text)
    index.unlink()
    encoder = load_text_encoder(folder, mx.float32)
    output = encoder(golden_098.mx("t5.input_ids"), golden_098.mx("t5.attention_mask"))
    assert relative_error(output, golden_098["t5.output"]) < 3e-6


def test_an_empty_folder_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        load_text_encoder(tmp_path, mx.float32)


def test_long_text_is_cut_and_keeps_its_end_token() -> None:
    ids = Tokenizer(TOKENIZER).encode("a cat and a dog " * 500)
    assert len(ids) == MAX_TOKENS
    assert ids[-1] == 1


def trained(folder: Path, **options: Any) -> Path:
    """Return a tokenizer of few tokens, trained on two texts."""
    text = "\n".join(f"number {number} of {number * 7919} red balls rolls" for number in range(300))
    (folder / "text").write_text(text)
    SentencePieceTrainer.train(
        input=str(folder / "text"), model_prefix=str(folder / "spiece"), vocab_size=60, minloglevel=2, **options
    )
    return folder / "spiece.model"


def test_a_tokenizer_of_another_text_encoder_is_refused(tmp_path: Path) -> None:
    """Ids that the embeddings lack would read whatever follows them in memory, without an error."""
    path = trained(tmp_path)
    Tokenizer(path, 60)
    with pytest.raises(CheckpointError, match=r"it has 60 tokens, of which this one knows 59; take the spiece\.model"):
        Tokenizer(path, 59)
    with pytest.raises(CheckpointError, match="has no end token"):
        Tokenizer(trained(tmp_path, eos_id=-1))


def test_converting_and_rendering_hold_the_tokenizer_against_the_text_encoder(
    pocket: LTXPipeline, tmp_path: Path
) -> None:
    (checkpoint,) = pocket.hashed_files["checkpoint"]
    encoder, tokenizer = tmp_path / "encoder", checkpoint.parent / "tokenizer" / "spiece.model"
    encoder.mkdir()
    entries, metadata = read_raw(checkpoint.parent / "text_encoder" / "model.safetensors")
    dtype, (_, width), data = entries["shared.weight"]
    entries["shared.weight"] = (dtype, [50, width], data[: 50 * width * 2])
    write_raw(encoder / "model.safetensors", entries, metadata)
    config = json.loads((checkpoint.parent / "text_encoder" / "config.json").read_text())
    (encoder / "config.json").write_text(json.dumps(config | {"vocab_size": 50}))
    with pytest.raises(CheckpointError, match="of which this one knows 50"):
        convert(checkpoint, tmp_path / "out", text_encoder=encoder, tokenizer=tokenizer)
    assert not (tmp_path / "out").exists()
    broken = LTXPipeline.from_files(checkpoint=checkpoint, text_encoder=encoder, tokenizer=tokenizer)
    with pytest.raises(CheckpointError, match="of which this one knows 50"):
        broken.embed("a red ball")


@pytest.mark.parametrize("content", [None, b"", b"not a SentencePiece model"])
def test_a_bad_tokenizer_is_a_checkpoint_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "spiece.model"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"spiece\.model"):
        Tokenizer(path)
