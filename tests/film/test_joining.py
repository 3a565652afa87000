"""What comes with the pictures."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import pytest
from reference.films import FINE, derain, see, write_film

from drsformer_jax.errors import UserError
from drsformer_jax.film.encoding import Encoding
from drsformer_jax.film.joining import suffix_for
from drsformer_jax.film.restoring import FilmDerainer, Outcome

# Of a camera that slows down and hurries: some frames are a tick apart.
UNEVEN = [338, 512, 1030, 1031, 2500, 2600, 3100, 3900, 4400, 5000, 9000, 9100]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_all_but_the_pictures_stays(suffix: str, tmp_path: Path) -> None:
    tick = {".mkv": Fraction(1, 1000), ".ts": Fraction(1, 90000)}.get(suffix, Fraction(1, 12800))
    # Of an MP4 that begins late on a fine clock.
    options = {"movie_timescale": "12800"} if suffix == ".mp4" else None
    source = write_film(tmp_path / f"wet{suffix}", times=UNEVEN, tick=tick, options=options)
    written, outcome = derain(source)
    assert outcome == Outcome(frames=12, rainy=0, bad_packets=0, is_cut_short=False)
    before, after = see(source), see(written)
    assert after.times == before.times
    assert after.frames[-1].duration == before.frames[-1].duration
    assert len(before.others) > 5
    assert after.others == before.others
    assert after.metadata.get("title") == before.metadata.get("title")
    assert after.chapters == before.chapters
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
