"""Films as they are found: damaged, cut short, put together, and files that are none."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from reference.films import FINE, derain, same, see, write_film

from drsformer_jax.errors import UserError
from drsformer_jax.film.restoring import FilmDerainer
from drsformer_jax.film.source import _losses


def test_ten_bits_become_eight_and_hdr_is_refused(tmp_path: Path) -> None:
    deep = write_film(tmp_path / "deep.mp4", frames=2, pixels="yuv420p10le")
    film = FilmDerainer(deep, tmp_path / "dry.mp4", FINE)
    assert film.notes == ["yuv420p10le becomes 8 bits a sample"]
    film.run(same, {})
    assert see(tmp_path / "dry.mp4").frames[0].format.name == "yuv420p"
    bright = write_film(tmp_path / "hdr.mp4", frames=2, pixels="yuv420p10le", tags=(9, 1, 9, 16))
    with pytest.raises(UserError, match=r"hdr.mp4: is HDR \(PQ\).* convert it to SDR"):
        FilmDerainer(bright, tmp_path / "none.mp4", FINE)


@pytest.mark.parametrize(
    ("pixels", "lost"),
    [
        ("yuv444p", ["4:2:0"]),
        ("yuv422p10le", ["8 bits a sample", "4:2:0"]),
        ("gray10le", ["8 bits a sample"]),
        ("bgra", ["4:2:0", "opaque"]),
        ("nv21", ["yuv420p"]),
    ],
)
def test_what_pixels_become(pixels: str, lost: list[str]) -> None:
    assert _losses(av.VideoFormat(pixels)) == lost


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
    uneven = [*range(0, 144000, 4800), 150000, 151000]
    two = [
        write_film(tmp_path / "first.ts", frames=40, tick=tick),
        write_film(tmp_path / "second.ts", times=uneven, size=(32, 48), tick=tick),
    ]
    source = tmp_path / "wet.ts"
    source.write_bytes(b"".join(path.read_bytes() for path in two))
    written, _ = derain(source)
    after = see(written)
    # The clock of the second one began anew, and its pictures have another size.
    expected = [Fraction(i, 25) for i in range(40)] + [Fraction(8, 5) + at * tick for at in uneven]
    assert after.times == [after.times[0] + at for at in expected]
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


def test_a_file_that_names_films_is_none(tmp_path: Path) -> None:
    write_film(tmp_path / "other.mp4")
    source = tmp_path / "wet.mp4"
    source.write_text("ffconcat version 1.0\nfile other.mp4\n")
    with pytest.raises(UserError, match="cannot be read as a film"):
        FilmDerainer(source, tmp_path / "dry.mp4", FINE)
