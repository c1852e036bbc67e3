import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from idgrpo.errors import MachineError
from idgrpo.people.arcface import ARCFACE, ArcfaceFinder, IResNet, IResNetEmbedder, OnnxEmbedder
from idgrpo.people.contract import Levels, fingerprint_of
from idgrpo.people.load import load_finder


def onnx_file(path: Path, shape, scale: float = 1.0) -> Path:
    """Write a network that averages each channel over 16 blocks: pixels -> [n, 48]."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    last = shape[3] == 3
    nodes = [helper.make_node("Transpose", ["data"], ["planes"], perm=[0, 3, 1, 2] if last else [0, 1, 2, 3])]
    nodes.append(helper.make_node("AveragePool", ["planes"], ["pooled"], kernel_shape=[28, 28], strides=[28, 28]))
    nodes.append(helper.make_node("Mul", ["pooled", "scale"], ["scaled"]))
    nodes.append(helper.make_node("Flatten", ["scaled"], ["out"]))
    graph = helper.make_graph(
        nodes,
        "blocks",
        [helper.make_tensor_value_info("data", kind, shape)],
        [helper.make_tensor_value_info("out", kind, [shape[0], 48])],
        [helper.make_tensor("scale", kind, [1], [scale])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path))
    return path


@pytest.mark.parametrize("shape", [("n", 3, 112, 112), (1, 3, 112, 112), (4, 3, 112, 112), ("n", 112, 112, 3)])
def test_an_onnx_network_embeds_any_number_of_faces(shape, tmp_path):
    embedder = OnnxEmbedder(onnx_file(tmp_path / "net.onnx", shape))
    assert embedder.crop_size == 112
    crops = torch.randint(0, 256, (5, 3, 112, 112), dtype=torch.uint8)
    vectors = embedder.embed(crops)
    assert vectors.shape == (5, 48) and np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(5), abs=1e-5)
    wanted = torch.nn.functional.avg_pool2d((crops.float() - 127.5) / 127.5, 28).flatten(1)
    wanted = torch.nn.functional.normalize(wanted, dim=1).numpy()
    assert vectors == pytest.approx(wanted, abs=1e-5)
    assert embedder.embed(crops[:1])[0] == pytest.approx(vectors[0], abs=1e-5)
    assert len(embedder.embed(crops[:0])) == 0


def test_an_onnx_file_is_known_by_its_content(tmp_path):
    one = OnnxEmbedder(onnx_file(tmp_path / "a.onnx", ("n", 3, 112, 112)))
    same = OnnxEmbedder(onnx_file(tmp_path / "b.onnx", ("n", 3, 112, 112)))
    other = OnnxEmbedder(onnx_file(tmp_path / "c.onnx", ("n", 3, 112, 112), scale=2.0))
    assert fingerprint_of(one) == fingerprint_of(same) != fingerprint_of(other)
    assert fingerprint_of(OnnxEmbedder(tmp_path / "a.onnx", std=128.0)) != fingerprint_of(one)


def test_files_that_are_no_recognition_network_are_refused(tmp_path):
    pytest.importorskip("onnxruntime")
    (tmp_path / "broken.onnx").write_bytes(b"no network")
    with pytest.raises(MachineError, match=r"broken.onnx is no network"):
        OnnxEmbedder(tmp_path / "broken.onnx")
    with pytest.raises(MachineError, match=r"\[n, 3, s, s\]"):
        OnnxEmbedder(onnx_file(tmp_path / "wide.onnx", ("n", 1, 112, 112)))
    with pytest.raises(MachineError, match=r"no recognition network at .*gone.onnx"):
        OnnxEmbedder(tmp_path / "gone.onnx")
    (tmp_path / "broken.pt").write_bytes(b"no checkpoint")
    with pytest.raises(MachineError, match=r"broken.pt is no torch checkpoint"):
        IResNetEmbedder(tmp_path / "broken.pt")
    torch.save({"layer3.0.weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(MachineError, match=r"other.pt holds no IR-ResNet"):
        IResNetEmbedder(tmp_path / "other.pt")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """An IR-ResNet with 18 layers and random weights, as InsightFace saves it from several processes."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("arcface") / "r18.pt"
    torch.save({f"module.{key}": value for key, value in IResNet((2, 2, 2, 2)).state_dict().items()}, path)
    return path


def test_the_keys_are_those_of_insightface(checkpoint):
    keys = set(IResNet((2, 2, 2, 2)).state_dict())
    assert keys >= {
        "conv1.weight", "bn1.weight", "prelu.weight", "layer1.0.bn1.weight", "layer1.0.conv1.weight", "layer1.0.bn2.weight",
        "layer1.0.prelu.weight", "layer1.0.conv2.weight", "layer1.0.bn3.weight", "layer1.0.downsample.0.weight",
        "layer1.0.downsample.1.weight", "layer4.1.conv2.weight", "bn2.weight", "fc.weight", "fc.bias", "features.weight",
    }  # fmt: skip
    assert not any("downsample" in key for key in keys if key.startswith("layer1.1."))


def test_a_torch_checkpoint_embeds_faces(checkpoint):
    embedder = IResNetEmbedder(checkpoint)
    crops = torch.randint(0, 256, (3, 3, 112, 112), dtype=torch.uint8)
    vectors = embedder.embed(crops)
    assert vectors.shape == (3, 512) and np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(3), abs=1e-5)
    assert embedder.embed(crops[:1])[0] == pytest.approx(vectors[0], abs=1e-4)


def test_the_finder_takes_a_local_file_and_states_its_levels(checkpoint, photographs):
    pytest.importorskip("facenet_pytorch")
    with pytest.raises(MachineError, match="no weights of its own") as caught:
        load_finder("arcface")
    assert "non-commercial" in caught.value.fix
    finder = load_finder("arcface", weights=checkpoint, min_face_px=30)
    assert isinstance(finder, ArcfaceFinder) and finder.levels == ARCFACE
    assert np.linalg.norm(finder.embed_reference(photographs[0])) == pytest.approx(1, abs=1e-4)
    own = load_finder("arcface", weights=checkpoint, same_person=0.5, stranger=0.3)
    assert own.levels == Levels(0.5, 0.3) and fingerprint_of(own) != fingerprint_of(finder)


def test_an_onnx_network_without_onnxruntime_names_the_install_line(tmp_path, monkeypatch):
    from idgrpo.errors import MachineError
    from idgrpo.people.arcface import OnnxEmbedder

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MachineError) as caught:
        OnnxEmbedder(tmp_path / "network.onnx")
    assert caught.value.fix == "pip install 'idgrpo[faces]'"
