"""The folder of a run: which one it is, what is in it, and that a failing write leaves nothing behind."""

import contextlib
import json
import os
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from safetensors.numpy import load_file

import minigan as mg
from minigan import nn
from minigan.gan import dcgan_discriminator, dcgan_generator
from minigan.gan.run_folder import RunFolder, running_mean, running_median, save_grid
from minigan.random import Generator

Array = Any


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run", "dcgan")


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def pixels(path: Path) -> Array:
    """The bytes (H, W, 3) of a PNG."""
    return np.rint(imread(path)[..., :3] * 255).astype(np.uint8)


def size_of_png(path: Path) -> tuple[int, ...]:
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">2I", head[16:])


# ---- which folder ---------------------------------------------------------------------------------------------------


def test_the_next_free_number() -> None:
    assert [str(RunFolder(None, "dcgan").path) for _ in range(2)] == ["runs/dcgan-0001", "runs/dcgan-0002"]
    assert str(RunFolder(None, "wgan").path) == "runs/wgan-0001"
    for name in ("dcgan-0041", "dcgan-last", "dcgan-0050-copy", "a-dcgan-0060"):
        (Path("runs") / name).mkdir()
    (Path("runs") / "dcgan-0007").write_text("a file, and taken all the same")
    assert str(RunFolder(None, "dcgan").path) == "runs/dcgan-0042"
    (Path("runs") / "dcgan-9999").mkdir()
    assert str(RunFolder(None, "dcgan").path) == "runs/dcgan-10000"
    assert str(RunFolder(None, "dcgan").path) == "runs/dcgan-10001"


def test_two_runs_that_start_at_once_get_two_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("runs").mkdir()
    mkdir = Path.mkdir

    def late(path: Path, *args: Any, **kwargs: Any) -> None:
        if path.name == "dcgan-0001":
            mkdir(path)  # another run was faster
        mkdir(path, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", late)
    assert str(RunFolder(None, "dcgan").path) == "runs/dcgan-0002"


def test_a_named_folder_is_made_with_its_parents() -> None:
    run = RunFolder("a/b/c", "dcgan")
    assert run.path == Path("a/b/c")
    assert run.path.is_dir()


@pytest.mark.parametrize("what", ["a folder with a file", "a folder with a folder", "a file"])
def test_what_exists_is_refused(what: str) -> None:
    path = Path("old")
    if what == "a file":
        path.write_text("text")
    else:
        path.mkdir()
        (path / "a").mkdir() if what == "a folder with a folder" else (path / "a").write_text("text")
    before = files(Path("."))
    with pytest.raises(FileExistsError, match=r"^old exists already; choose another name, or an empty folder$"):
        RunFolder(path, "dcgan")
    assert files(Path(".")) == before


def test_an_empty_folder_is_as_good_as_a_new_one() -> None:
    """A run that was killed before its first file leaves one."""
    Path("empty").mkdir()
    with RunFolder("empty", "dcgan") as run:
        run.write_json("config.json", {})
    assert files(Path(".")) == ["empty/config.json"]


def test_a_folder_has_one_user_at_a_time() -> None:
    with RunFolder("run", "dcgan") as run:
        run.write_json("config.json", {})
        with pytest.raises(
            BlockingIOError, match=r"^run is in use, by another process or by this one; wait for its end, or"
        ):
            RunFolder.open("run")
    with RunFolder.open("run") as run:
        run.log({"step": 1})
    RunFolder.open("run").close()


def test_rewinding_takes_back_what_came_after_a_step() -> None:
    with RunFolder("run", "dcgan") as run:
        run.rewind(0)
        assert files(run.path) == []
        for step in range(1, 6):
            run.log({"step": step, "d_loss": 0.1 * step})
        run.write_json("metrics.json", {"step": 5})
        log = run.path / "metrics.jsonl"
        with open(log, "ab") as file:
            file.write(b'{"step": 6, "d_lo')
        run.rewind(3)
        assert files(run.path) == ["metrics.jsonl"]
        assert log.read_text() == "".join(f"{json.dumps({'step': s, 'd_loss': 0.1 * s})}\n" for s in (1, 2, 3))
        before = log.stat().st_mtime_ns
        run.rewind(3)
        assert log.stat().st_mtime_ns == before  # nothing to do
        run.log({"step": 4})
        assert [row["step"] for row in run.rows()] == [1, 2, 3, 4]


# ---- what is in it --------------------------------------------------------------------------------------------------


def test_config(run: RunFolder) -> None:
    config = {"steps": 3, "out": "somewhere", "betas": [0.5, 0.9], "lr": 2e-4, "epochs": None}
    run.write_json("config.json", config)
    text = (run.path / "config.json").read_text()
    assert json.loads(text) == config
    assert text.endswith("}\n")


def test_metrics_can_be_read_while_the_run_goes_on(run: RunFolder) -> None:
    assert run.rows() == []
    written = []
    for step in range(1, 4):
        written.append({"step": step, "d_loss": 1 / 3 + step})
        run.log(written[-1])
        lines = (run.path / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == written
    assert run.rows() == written
    run.close()
    run.close()
    run.log({"step": 4})  # opens it again, and appends
    run.close()
    assert [row["step"] for row in run.rows()] == [1, 2, 3, 4]


def test_metrics_of_a_run_that_logs_nothing_leave_no_file(run: RunFolder) -> None:
    run.close()
    assert files(run.path) == []


@pytest.mark.parametrize("C", [1, 3])
def test_a_grid_shows_every_pixel(run: RunFolder, C: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (11, 5, 4, C), np.uint8)
    path = run.save_samples(100, images / np.float32(127.5) - np.float32(1))
    assert path == run.path / "samples" / "step_000100.png"
    assert size_of_png(path) == (8 * (4 + 1) + 1, 2 * (5 + 1) + 1)
    sheet = pixels(path)
    for i, image in enumerate(images):
        top, left = i // 8 * 6 + 1, i % 8 * 5 + 1
        shown = np.broadcast_to(image, (5, 4, 3))
        np.testing.assert_array_equal(sheet[top : top + 5, left : left + 4], shown)
    frame = sheet[::6].reshape(-1, 3)
    assert (frame == frame[0]).all()
    assert set(frame[0]) <= {127, 128}
    assert (sheet[7:, 3 * 5 + 1 :] == frame[0]).all()  # the empty places of the second row


def test_a_grid_clips_what_is_out_of_range(tmp_path: Path) -> None:
    save_grid(tmp_path / "grid.png", np.array([-3.0, -1.0, 1.0, 3.0]).reshape(4, 1, 1, 1), columns=4)
    np.testing.assert_array_equal(pixels(tmp_path / "grid.png")[1, 1:9:2, 0], [0, 0, 255, 255])


GAN_ROW = {"d_loss": 1.0, "g_loss": 2.0, "d_real": 0.6, "d_fake_before": 0.4, "d_fake_after": 0.45}
GP_ROW = {"d_loss": 1.0, "g_loss": 2.0, "w_estimate": 3.0, "penalty": 0.1, "grad_norm": 1.1}
CLIP_ROW = {"d_loss": 1.0, "g_loss": 2.0, "w_estimate": 3.0, "grad_norm": 1.1, "clip_share": 0.5}


@pytest.mark.parametrize(("row", "panels"), [(GAN_ROW, 2), (GP_ROW, 3), (CLIP_ROW, 4)], ids=["gan", "gp", "clip"])
@pytest.mark.parametrize("steps", [1, 7, 200])
def test_losses_are_plotted(run: RunFolder, steps: int, row: dict[str, float], panels: int) -> None:
    for step in range(1, steps + 1):
        run.log({"step": step, **row, "d_loss": 1 / step})
    path = run.plot_losses()
    run.close()
    assert path == run.path / "losses.png"
    assert size_of_png(path) == (880, 330 * panels)
    assert len(np.unique(pixels(path).reshape(-1, 3), axis=0)) > 10  # it shows something


@pytest.mark.parametrize("smooth", [running_mean, running_median])
def test_the_smooth_curve_has_the_length_and_the_level_of_the_curve(smooth: Any) -> None:
    for n in (1, 2, 49, 50, 100, 149, 1000):
        np.testing.assert_allclose(smooth(np.full(n, 3.0)), np.full(n, 3.0))
    noisy = np.arange(1000.0) + np.random.default_rng(0).standard_normal(1000)
    np.testing.assert_allclose(smooth(noisy)[50:-50], np.arange(1000.0)[50:-50], atol=3)


def test_a_median_does_not_see_outliers() -> None:
    values = np.where(np.arange(500) % 7 == 0, 1e6, 1.0)
    np.testing.assert_array_equal(running_median(values), 1.0)


def test_interpolations_are_ten_a_row(run: RunFolder) -> None:
    assert size_of_png(run.save_interpolation(np.zeros((20, 4, 4, 1)))) == (51, 11)
    assert files(run.path) == ["interpolation.png"]


def test_weights_load_back_bit_for_bit(run: RunFolder) -> None:
    G, D = dcgan_generator(28, 1, 2, 5), dcgan_discriminator(28, 1, 2)
    z = mg.Tensor(Generator(0, "latent").normal((2, 5)))
    G(z)  # moves the running statistics
    path = run.save_weights(G=G, D=D)
    assert path == run.path / "weights.safetensors"
    arrays = load_file(path)
    assert set(arrays) == {f"G.{name}" for name in G.state_dict()} | {f"D.{name}" for name in D.state_dict()}
    for prefix, net in (("G", G), ("D", D)):
        own = {name.removeprefix(f"{prefix}."): array for name, array in arrays.items() if name.startswith(prefix)}
        for name, array in net.state_dict().items():
            assert own[name].dtype == array.dtype
            np.testing.assert_array_equal(own[name].view(np.uint32), array.view(np.uint32))
    other = dcgan_generator(28, 1, 2, 5)
    other.load_state_dict({name[2:]: array for name, array in arrays.items() if name[0] == "G"})
    np.testing.assert_array_equal(other.eval()(z).array, G.eval()(z).array)


def test_weights_of_another_layout_are_written_right(run: RunFolder) -> None:
    net = nn.Linear(3, 4, bias=False)
    net.weight.array = np.asfortranarray(net.weight.array)
    arrays = load_file(run.save_weights(net=net))
    np.testing.assert_array_equal(arrays["net.weight"], net.weight.array)


def test_a_log_that_cannot_be_closed_names_itself(run: RunFolder) -> None:
    run.log({"step": 1})
    assert run._metrics is not None
    os.close(run._metrics.fileno())
    with pytest.raises(OSError, match=re.escape(f"cannot write {run.path}/metrics.jsonl: Bad file descriptor; ")):
        run.close()
    run.close()  # there is nothing left to close


# ---- writes that fail -----------------------------------------------------------------------------------------------


def half(path: str) -> None:
    Path(path).write_bytes(b"half a fi")
    raise OSError("no space left on device")


@pytest.mark.parametrize("old", [None, b"the old file, whole"])
def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, old: bytes | None) -> None:
    run = RunFolder(tmp_path / "folder", "gan")
    path = run.path / "file"
    if old is not None:
        path.write_bytes(old)
    with pytest.raises(OSError, match=re.escape(f"cannot write {path}: no space left on device; what was written")):
        run.write("file", half)
    assert files(path.parent) == ([] if old is None else ["file"])
    assert old is None or path.read_bytes() == old


def test_all_files_but_the_metrics_are_replaced_whole(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    run.log({"step": 1, **GAN_ROW})
    run.close()
    net, images = nn.Linear(2, 2), np.zeros((1, 2, 2, 1))
    writes = [
        lambda: run.write_json("config.json", {"a": 1}), lambda: run.save_samples(1, images),
        lambda: run.save_interpolation(images), lambda: run.save_weights(net=net), run.plot_losses,
    ]  # fmt: skip
    for write in writes:
        write()
    before = {name: (run.path / name).read_bytes() for name in files(run.path)}
    assert len(before) == 6

    def fails(source: str, target: Path) -> None:
        assert re.fullmatch(r".*\.part", source)
        assert Path(source).stat().st_size > 0
        raise OSError("the disk is gone")

    monkeypatch.setattr(os, "replace", fails)
    for write in writes:
        with pytest.raises(OSError, match="the disk is gone"):
            write()
    assert {name: (run.path / name).read_bytes() for name in files(run.path)} == before


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run", "dcgan")
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    (run.path / "metrics.jsonl").symlink_to(full)
    text = (
        f"cannot write {run.path}/metrics.jsonl: No space left on device; what was written before is intact: make room,"
    )
    with pytest.raises(OSError, match=re.escape(text)):
        run.log({"step": 1})
    with contextlib.suppress(OSError):
        run.close()
