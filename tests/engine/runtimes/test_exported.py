"""Frames packed for the vision graph, chunks of prompts, and embeddings of prompts."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from penguin_engine.export.checkpoint_to_onnx import ExportOptions, export
from penguin_engine.export.graphs.decoder import EMBEDDING_TABLE as TABLE
from penguin_engine.export.manifest import EMBEDDINGS, Manifest
from penguin_engine.export.quantize import Quantization
from penguin_engine.runtimes.exported import (
    PATCHES_PER_PASS,
    EmbeddingTable,
    HostVisualTokens,
    split_into_chunks,
    vision_passes,
)
from penguin_engine.runtimes.loading import open_runtime
from penguin_models.checkpoint import save_pretrained
from penguin_models.images import patch_positions
from penguin_models.tensor_files import index_tensors, read_tensors
from penguin_models.types import PatchedImage, Size


def image(rows, columns, merge_size, number=0):
    grid = Size(rows * merge_size, columns * merge_size)
    patches = np.arange(grid.area, dtype=np.float32)[:, None] + 1e4 * number
    return PatchedImage(patches, grid, merge_size)


IMAGES = st.lists(
    st.builds(image, st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 2]), st.integers(0, 50)), max_size=12
)


@given(IMAGES, st.booleans())
def test_every_frame_is_packed_once_and_whole(images, equal_frames):
    passes = list(vision_passes(images, equal_frames))
    assert sorted(i for p in passes for i in p.indices) == list(range(len(images)))
    for p in passes:
        frames = [images[i] for i in p.indices]
        inputs = p.inputs
        assert len({frame.merge_size for frame in frames}) == 1
        assert len(frames) == 1 or inputs["patches"].shape[0] <= PATCHES_PER_PASS
        assert inputs["slots"].shape[0] == len(frames)
        if equal_frames:
            assert inputs["slots"].min() >= 0
        else:
            assert inputs["slots"].size <= 1.25 * inputs["patches"].shape[0]
        for row, frame in zip(inputs["slots"], frames, strict=True):
            slots = row[row >= 0]
            np.testing.assert_array_equal(inputs["patches"][slots], frame.patches)
            np.testing.assert_array_equal(inputs["positions"][slots], patch_positions(frame.grid, frame.merge_size))
        # `places` undoes the padding, and the patches of each token are one block.
        np.testing.assert_array_equal(inputs["slots"].ravel()[inputs["places"]], np.arange(len(inputs["patches"])))
        assert inputs["blocks"].shape == (sum(p.tokens), frames[0].merge_size ** 2)
        blocks = inputs["positions"][inputs["blocks"]] // frames[0].merge_size
        assert (blocks == blocks[:, :1]).all()


@pytest.fixture(scope="module")
def table(exported):
    folder = exported(profile="portable")
    return EmbeddingTable(folder, Manifest.read(folder))


def test_embeddings_of_text_and_images_are_in_order(table, model):
    visual = HostVisualTokens(np.full((2, 96), 7, np.float32))
    embedded = table.embed([[5, 6], visual, [], [1535]])
    rows = model.embed_tokens.__self__.language_model.get_input_embeddings().weight.detach().numpy()
    np.testing.assert_array_equal(embedded, np.concatenate([rows[[5, 6]], visual.embeddings, rows[[1535]]]))


@pytest.fixture(scope="module")
def stored_in_bfloat16(loaded, tmp_path_factory):
    model, processor = loaded
    folder = tmp_path_factory.mktemp("bfloat16")
    save_pretrained(copy.deepcopy(model).to(torch.bfloat16), processor, folder)
    return folder


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        (ExportOptions("onnxruntime", "float32"), "bfloat16"),
        (ExportOptions("onnxruntime", quantization=Quantization("int8")), "bfloat16"),
        (ExportOptions("portable", quantization=Quantization("int4", keep_head=True)), "float16"),  # as the head
        (ExportOptions("portable", "bfloat16"), "bfloat16"),
    ],
)
def test_tables_have_16_bits_and_rows_the_type_of_the_decoder(stored_in_bfloat16, tmp_path, options, dtype):
    manifest = export(stored_in_bfloat16, tmp_path / "out", options)
    assert manifest.table_dtype == dtype
    assert manifest.files[EMBEDDINGS].bytes == 2 * manifest.decoder.head_weights
    rows = EmbeddingTable(tmp_path / "out", manifest).rows([3, 1535])
    (_, _, stored), *_ = read_tensors({"": index_tensors(stored_in_bfloat16)[TABLE]})
    expected = stored[[3, 1535]].to(getattr(torch, manifest.dtype))
    got = torch.from_numpy(rows.view(np.int16) if manifest.dtype == "bfloat16" else rows)
    assert torch.equal(got.view(expected.dtype), expected)


def test_a_tied_head_in_float32_goes_with_a_table_in_bfloat16(stored_in_bfloat16, tmp_path):
    export(stored_in_bfloat16, tmp_path / "out", ExportOptions("onnxruntime", "float32"))
    ours, theirs = (
        open_runtime(name, path, precision="float32")[0].open_cache(4).append([[1, 2]])
        for name, path in (("onnx", tmp_path / "out"), ("torch", stored_in_bfloat16))
    )
    np.testing.assert_allclose(ours, theirs, atol=2e-4)


@pytest.mark.parametrize(("quantization", "dtype"), [(None, "float32"), (Quantization("int8"), "float16")])
def test_tables_of_float32_checkpoints(exported, quantization, dtype):
    """Lossless without quantisation. In older exports, whose manifests do not say it, the decoder's type."""
    folder = exported(profile="onnxruntime", quantization=quantization)
    assert Manifest.read(folder).table_dtype == dtype
    assert replace(Manifest.read(folder), embeddings_dtype=None).table_dtype == "float32"


@given(st.lists(st.integers(0, 20), max_size=8), st.integers(1, 7))
def test_chunks_contain_every_token_once_in_order(lengths, size):
    segments = [[100 * number + i for i in range(length)] for number, length in enumerate(lengths)]
    chunks = list(split_into_chunks(segments, size))
    assert all(sum(span.length for span in chunk) == size for chunk in chunks[:-1])
    tokens = []
    for chunk in chunks:
        for span in chunk:
            assert span.offset == len(tokens) % size
            tokens += span.segment[span.start : span.start + span.length]
    assert tokens == [token for segment in segments for token in segment]


def test_segment_of_another_runtime_is_refused(table):
    class Other:
        length = 3

    with pytest.raises(AssertionError, match="a segment of another runtime: Other"):
        table.embed([Other()])
