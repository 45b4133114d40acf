import pytest

from codefend.models.manifest import describe_weights, read_manifest, verify_weights, write_manifest


@pytest.fixture
def weights(tmp_path):
    (tmp_path / "net" / "unet").mkdir(parents=True)
    (tmp_path / "net" / "unet" / "model.safetensors").write_bytes(b"1234")
    (tmp_path / "net" / "model_index.json").write_text("{}")
    (tmp_path / "net" / "README.md").write_text("card")
    entry = describe_weights(
        "net", licence="Apache-2.0", command="train", figures={"psnr": 30}, directory=tmp_path
    )
    write_manifest([entry], tmp_path)
    return tmp_path


def problems(directory):
    return [text for entry in read_manifest(directory) for text in verify_weights(entry, directory)]


def test_whole_weights_verify_and_the_card_may_change(weights):
    entry = read_manifest(weights)[0]
    assert (entry.size_bytes, entry.figures) == (6, {"psnr": 30})
    (weights / "net" / "README.md").write_text("a better card")
    assert problems(weights) == []


def test_altered_missing_and_foreign_files_are_found(weights):
    (weights / "net" / "unet" / "model.safetensors").write_bytes(b"1235")
    (weights / "net" / "model_index.json").unlink()
    (weights / "net" / "extra.bin").touch()
    assert sorted(problems(weights)) == [
        "net/extra.bin is not listed",
        "net/model_index.json is missing",
        "net/unet/model.safetensors does not have the listed sha256",
    ]


def test_nothing_to_describe(tmp_path):
    with pytest.raises(FileNotFoundError):
        describe_weights("none", licence="", command="", figures={}, directory=tmp_path)


def test_a_malformed_manifest_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text('{"weights": [{"name": "x"}]}')
    with pytest.raises(ValueError, match="malformed"):
        read_manifest(tmp_path)
