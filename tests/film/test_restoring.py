"""Films restored by functions that stand for the network, and read back."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from reference.films import scene, see, write_film

from drsformer_jax.errors import UserError
from drsformer_jax.film import restoring
from drsformer_jax.film.encoding import Encoding
from drsformer_jax.film.joining import suffix_for
from drsformer_jax.film.restoring import FilmDerainer, Outcome

# Of a camera that slows down and hurries: some frames are a tick apart.
UNEVEN = [0, 512, 1030, 1031, 2500, 2600, 3100, 3900, 4400, 5000, 9000, 9100]
FINE = Encoding(crf=1)


def same(image: np.ndarray) -> np.ndarray:
    return image


def derain(
    source: Path,
    destination: Path | None = None,
    restore: Callable[[np.ndarray], np.ndarray] = same,
    encoding: Encoding = FINE,
    **kwargs: Any,
) -> tuple[Path, Outcome]:
    destination = destination or source.with_name(f"dry{source.suffix}")
    film = FilmDerainer(source, destination, encoding)
    return destination, film.run(restore, {"weights": "1"}, **kwargs)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_all_but_the_pictures_stays(suffix: str, tmp_path: Path) -> None:
    tick = {".mkv": Fraction(1, 1000), ".ts": Fraction(1, 90000)}.get(suffix, Fraction(1, 12800))
    source = write_film(tmp_path / f"wet{suffix}", times=UNEVEN, tick=tick)
    written, outcome = derain(source)
    assert outcome == Outcome(frames=12, rainy=0, bad_packets=0, is_cut_short=False)
    before, after = see(source), see(written)
    assert after.times == before.times
    assert len(before.others) > 5
    assert after.others == before.others
    assert (after.title, after.chapters) == (before.title, before.chapters)
    assert sorted(path.name for path in tmp_path.iterdir()) == [written.name, source.name]


def test_subtitles_stay(tmp_path: Path) -> None:
    (tmp_path / "said.srt").write_text("1\n00:00:00,100 --> 00:00:00,300\nIt rains.\n")
    pictures = write_film(tmp_path / "pictures.mkv", sound=None)
    source = tmp_path / "wet.mkv"
    with (
        av.open(str(pictures)) as film,
        av.open(str(tmp_path / "said.srt")) as said,
        av.open(str(source), "w") as output,
    ):
        streams = [one.streams[0] for one in (film, said)]
        own = [output.add_stream_from_template(stream, opaque=True) for stream in streams]
        for copy in own:
            copy.metadata["language"] = "deu"
        for stream, copy in zip(streams, own, strict=True):
            for packet in stream.container.demux(stream):
                if packet.size:
                    packet.stream = copy
                    output.mux(packet)
    written, _ = derain(source)
    assert [other[0] for other in see(source).others] == ["subtitle"]
    assert see(written).others == see(source).others
    with av.open(str(written)) as container:
        assert [stream.language for stream in container.streams] == ["deu", "deu"]


@pytest.mark.parametrize("matrix", [1, 6, 9])
@pytest.mark.parametrize("span", [1, 2], ids=["limited", "full"])
def test_colours_come_back(matrix: int, span: int, tmp_path: Path) -> None:
    tags = (matrix, span, matrix, {9: 14}.get(matrix, matrix))
    source = write_film(tmp_path / "wet.mp4", frames=2, tags=tags)
    shown: list[np.ndarray] = []
    written, _ = derain(source, restore=lambda image: shown.append(image) or image)
    # What the network sees is what was filmed, but for the codec.
    assert np.abs(shown[0] - scene(0).astype(float)).mean() < 1.5
    before, after = see(source), see(written)
    assert after.tags == before.tags == tags
    # Chroma rounds to a neighbour on its way to 8 bits of RGB and back.
    assert np.abs((after.planes() - before.planes()).mean(axis=(0, 2, 3))).max() < 1


def test_untagged_colours_stay_so(tmp_path: Path) -> None:
    source = write_film(tmp_path / "wet.mkv", frames=2, tags=(2, 0, 2, 2))
    written, _ = derain(source)
    before, after = see(source), see(written)
    assert after.tags == before.tags == (2, 0, 2, 2)
    assert np.abs((after.planes() - before.planes()).mean(axis=(0, 2, 3))).max() < 1


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_frames_are_upright(degrees: int, tmp_path: Path) -> None:
    aspect = Fraction(4, 3)
    source = write_film(tmp_path / "wet.mov", frames=2, rotation=degrees, aspect=aspect)
    shown: list[np.ndarray] = []
    written, _ = derain(source, restore=lambda image: shown.append(image) or image)
    expected = np.rot90(scene(0), degrees // 90)
    assert np.abs(shown[0] - expected.astype(float)).mean() < 1.5
    after = see(written)
    assert after.size == expected.shape[:2]
    assert after.frames[0].rotation == 0
    assert after.aspect == (aspect if degrees == 180 else 1 / aspect)


def test_odd_sizes_get_a_row_and_a_column(tmp_path: Path) -> None:
    source = write_film(
        tmp_path / "wet.mkv", frames=2, size=(23, 31), codec="mpeg4", tick=Fraction(1, 25)
    )
    shown: list[np.ndarray] = []
    written, _ = derain(source, restore=lambda image: shown.append(image) or image)
    assert shown[0].shape == (23, 31, 3)
    after = see(written)
    assert after.size == (24, 32)
    luma = after.frames[0].to_ndarray()[:24].astype(int)
    assert np.abs(luma[23] - luma[22]).max() < 4
    # An encoder that takes them keeps them.
    kept, _ = derain(source, tmp_path / "kept.mkv", encoding=Encoding("ffv1"))
    assert see(kept).size == (23, 31)


def test_ten_bits_become_eight_and_hdr_is_refused(tmp_path: Path) -> None:
    deep = write_film(tmp_path / "deep.mp4", frames=2, pixels="yuv420p10le")
    film = FilmDerainer(deep, tmp_path / "dry.mp4", FINE)
    assert film.notes == ["yuv420p10le becomes 8 bits a sample"]
    film.run(same, {})
    assert see(tmp_path / "dry.mp4").frames[0].format.name == "yuv420p"
    bright = write_film(tmp_path / "hdr.mp4", frames=2, pixels="yuv420p10le", tags=(9, 1, 9, 16))
    with pytest.raises(UserError, match=r"hdr.mp4: is HDR \(PQ\).* convert it to SDR"):
        FilmDerainer(bright, tmp_path / "none.mp4", FINE)


def test_a_resumed_film_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restoring, "PART_SECONDS", 0.16)  # 4 frames
    source = write_film(tmp_path / "wet.mp4", frames=14)
    whole, _ = derain(source, tmp_path / "whole.mp4", restore=np.invert)
    left = [6, 3, 6, 100]

    def killed(image: np.ndarray) -> np.ndarray:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return np.invert(image)

    resumed = tmp_path / "resumed.mp4"
    parts = []
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            derain(source, resumed, restore=killed)
        assert not resumed.exists()
        parts.append(sorted(path.name for path in Path(f"{resumed}.parts").iterdir()))
        left.pop(0)
    names = [f"{number:06d}.npz" for number in range(3)]
    assert parts == [[*names[:1], "job.json"], [*names[:1], "job.json"], [*names[:2], "job.json"]]
    # What a killed process was writing.
    (Path(f"{resumed}.parts") / ".drsformer.torn.npz").write_bytes(b"torn")
    seen: list[bool] = []
    _, outcome = derain(source, resumed, restore=killed, on_frame=seen.append)
    assert seen == [False] * 8 + [True] * 6
    assert outcome.frames == 14
    assert resumed.read_bytes() == whole.read_bytes()
    assert not Path(f"{resumed}.parts").exists()


def test_parts_of_another_job_are_not_taken(tmp_path: Path) -> None:
    source = write_film(tmp_path / "wet.mp4", frames=3)
    destination = tmp_path / "dry.mp4"
    folder = Path(f"{destination}.parts")

    def broken(image: np.ndarray) -> np.ndarray:
        raise FloatingPointError("not finite")

    with pytest.raises(FloatingPointError):
        derain(source, destination, restore=broken)
    with pytest.raises(UserError, match=rf"{folder}: .*another crf: .*--overwrite"):
        derain(source, destination, encoding=Encoding(crf=30))
    other = write_film(tmp_path / "other.mp4", frames=4)
    with pytest.raises(UserError, match=r"another input: "):
        derain(other, destination)
    _, outcome = derain(other, destination, overwrite=True)
    assert outcome.frames == 4
    # A folder of somebody else.
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(UserError, match=r"in the way"):
            derain(source, destination, overwrite=overwrite)
    assert (folder / "mine.txt").read_text() == "mine"


def test_a_damaged_part_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restoring, "PART_SECONDS", 0.16)
    source = write_film(tmp_path / "wet.mp4", frames=8)
    number = iter(range(100))

    def spoil(image: np.ndarray) -> np.ndarray:
        if next(number) == 5:
            (tmp_path / "dry.mp4.parts" / "000000.npz").write_bytes(b"PK")
        return image

    with pytest.raises(UserError, match=r"000000.npz: is damaged: remove it"):
        derain(source, restore=spoil)
    assert not (tmp_path / "dry.mp4").exists()
    (tmp_path / "dry.mp4.parts" / "000000.npz").unlink()
    assert derain(source)[1].frames == 8


def test_a_frame_that_fails_stays_rainy(tmp_path: Path) -> None:
    source = write_film(tmp_path / "wet.mp4", frames=6)
    number = iter(range(100))

    def dark(image: np.ndarray) -> np.ndarray:
        if next(number) == 3:
            raise MemoryError
        return image // 4

    written, outcome = derain(source, restore=dark)
    assert outcome == Outcome(frames=6, rainy=1, bad_packets=0, is_cut_short=False)
    assert see(written).times == see(source).times
    luma = see(written).planes()[:, 0].mean(axis=(1, 2))
    assert [value > 80 for value in luma] == [False, False, False, True, False, False]


def test_damaged_packets_do_not_end_a_film(tmp_path: Path) -> None:
    whole = write_film(tmp_path / "whole.mkv", frames=12)
    source = tmp_path / "wet.mkv"
    with av.open(str(whole)) as film, av.open(str(source), "w") as output:
        streams = [output.add_stream_from_template(stream) for stream in film.streams]
        for number, packet in enumerate(film.demux(film.streams.video[0])):
            if packet.size:
                noise = av.Packet(b"\x5a" * packet.size) if number in (4, 5) else packet
                noise.pts, noise.dts, noise.time_base = packet.pts, packet.dts, packet.time_base
                noise.stream = streams[0]
                output.mux(noise)
    written, outcome = derain(source)
    assert (outcome.frames, outcome.bad_packets) == (10, 2)
    assert set(see(written).times) < set(see(whole).times)


def test_recordings_one_behind_the_other(tmp_path: Path) -> None:
    tick = Fraction(1, 90000)
    two = [
        write_film(tmp_path / f"{name}.ts", frames=40, size=size, tick=tick)
        for name, size in (("first", (24, 32)), ("second", (32, 48)))
    ]
    source = tmp_path / "wet.ts"
    source.write_bytes(b"".join(path.read_bytes() for path in two))
    written, _ = derain(source)
    after = see(written)
    # The clock of the second one began anew, and its pictures have another size.
    assert after.times == [after.times[0] + Fraction(i, 25) for i in range(80)]
    assert after.size == (24, 32)
    heard = [at for _, at, _ in after.others]
    assert heard == sorted(heard)
    assert abs(heard[-1] - after.times[-1]) < 0.1


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_film_cut_short(suffix: str, tmp_path: Path) -> None:
    whole = write_film(
        tmp_path / f"whole{suffix}",
        frames=60,
        tick=Fraction(1, 1000),
        options={"movflags": "+faststart"} if suffix == ".mp4" else None,
    )
    data = whole.read_bytes()
    source = tmp_path / f"wet{suffix}"
    source.write_bytes(data[: len(data) // 2])
    written, outcome = derain(source)
    assert outcome.is_cut_short
    assert 10 < outcome.frames < 60
    assert set(see(written).times) < set(see(whole).times)
    assert not derain(whole)[1].is_cut_short


def test_what_is_no_film(tmp_path: Path) -> None:
    sound = tmp_path / "sound.mp4"
    with av.open(str(sound), "w") as output:
        voice = output.add_stream("aac", 44100)
        silence = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), "fltp", "stereo")
        silence.sample_rate = 44100
        output.mux(voice.encode(silence))
        output.mux(voice.encode(None))
    text = tmp_path / "text.ts"
    text.write_text("export const rain = true;\n")
    (tmp_path / "empty.mkv").touch()
    cut = tmp_path / "cut.mp4"  # without its index, which comes last
    cut.write_bytes(write_film(tmp_path / "wet.mp4").read_bytes()[:3000])
    for path, why in (
        (sound, "no moving pictures"),
        (text, "cannot be read as a film"),
        (tmp_path / "empty.mkv", "cannot be read as a film"),
        (cut, "cannot be read as a film"),
        (tmp_path / "missing.mp4", "No such file"),
    ):
        with pytest.raises(UserError, match=why) as caught:
            FilmDerainer(path, tmp_path / "out" / "dry.mp4", FINE)
        assert str(path) in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_film_that_names_others_opens_none(tmp_path: Path) -> None:
    write_film(tmp_path / "wet.ts")
    listed = tmp_path / "listed.mp4"
    listed.write_text(f"#EXTM3U\n#EXTINF:1,\n{tmp_path / 'wet.ts'}\nhttp://127.0.0.1:9/a.ts\n")
    with pytest.raises(UserError, match="cannot be read as a film"):
        FilmDerainer(listed, tmp_path / "dry.mp4", FINE)


def test_what_containers_take(tmp_path: Path) -> None:
    assert suffix_for(Path("A.MP4"), "libx264") == ".mp4"
    assert suffix_for(Path("a.webm"), "libvpx-vp9") == ".webm"
    assert suffix_for(Path("a.webm"), "libx264") == ".mkv"
    assert suffix_for(Path("a.avi"), "libx264") == ".mkv"
    source = write_film(tmp_path / "wet.mp4", frames=2)
    with pytest.raises(UserError, match=r"a webm file cannot hold its sound \(aac\)"):
        FilmDerainer(source, tmp_path / "dry.webm", Encoding("libvpx-vp9"))
    with pytest.raises(UserError, match=r"a webm file cannot hold it"):
        FilmDerainer(source, tmp_path / "dry.webm", FINE)
    for encoding, why in (
        (Encoding("nothing"), r"--codec nothing: there is no such encoder"),
        (Encoding("aac"), r"--codec aac: there is no such encoder"),
        (Encoding("ffv1", 20), r"--crf 20: ffv1 has none"),
    ):
        with pytest.raises(UserError, match=why):
            FilmDerainer(source, tmp_path / "dry.mkv", encoding)
