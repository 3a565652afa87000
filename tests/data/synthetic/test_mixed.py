"""Rain mixed anew: what a patch is made of, and that it depends on seed and index alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from drsformer_jax.data.configured import training_source, validation_source
from drsformer_jax.data.images import write_png
from drsformer_jax.data.pipeline import Stage, training_batches
from drsformer_jax.data.synthetic.layers import rain_layer
from drsformer_jax.data.synthetic.mixed import KINDS, MixedRain, MixOptions
from drsformer_jax.errors import UserError

CROP = 16


def photograph(seed: int, height: int = 40, width: int = 48) -> np.ndarray:
    return np.random.default_rng(seed).integers(20, 100, (height, width, 3), dtype=np.uint8)


def write_pairs(root: Path, brightness: int, count: int = 2) -> str:
    """Pairs whose layer is one bright column in eight."""
    for side in ("input", "target"):
        (root / side).mkdir(parents=True)
    for i in range(count):
        clean = photograph(50 + i)
        layer = np.zeros(clean.shape[:2], np.uint8)
        layer[:, i::8] = brightness
        write_png(root / f"input/{i}.png", clean + layer[..., None])
        write_png(root / f"target/{i}.png", clean)
    return str(root)


@pytest.fixture
def options(tmp_path: Path) -> MixOptions:
    """One of each: light rain adds 30, heavy 120, streaks 60."""
    (tmp_path / "streaks").mkdir()
    streaks = np.zeros((40, 40), np.uint8)
    streaks[:, ::5] = 60
    write_png(tmp_path / "streaks/a.png", streaks)
    light = write_pairs(tmp_path / "light", 30)
    return MixOptions(
        light=(light,),
        heavy=(write_pairs(tmp_path / "heavy", 120),),
        streaks=(str(tmp_path / "streaks"),),
        pairs=(light,),
        shares=dict.fromkeys(KINDS, 1.0),
    )


@pytest.fixture
def clean(tmp_path: Path) -> str:
    (tmp_path / "clean").mkdir()
    for i in range(3):
        write_png(tmp_path / f"clean/{i}.png", photograph(i))
    return str(tmp_path / "clean")


def only(options: MixOptions, kind: str, mist: float = 0.0) -> MixOptions:
    return MixOptions(
        options.light, options.heavy, options.streaks, options.pairs, {kind: 1.0}, mist
    )


def kind_of(name: str) -> str:
    return name.rpartition("_")[2]


def test_pairs_depend_on_seed_and_index_alone(options: MixOptions, clean: str) -> None:
    source = MixedRain([clean], options, seed=5, versions=20, crop=CROP)
    assert len(source) == 60
    backwards = {i: source[i] for i in reversed(range(60))}
    again = MixedRain([clean], options, seed=5, versions=20, crop=CROP, cache=False)
    for i in range(60):
        pair = again[i]
        assert pair["name"] == backwards[i]["name"]
        for side in ("input", "target"):
            assert pair[side].dtype == np.uint8
            assert pair[side].shape == (CROP, CROP, 3)
            np.testing.assert_array_equal(pair[side], backwards[i][side])
    assert len({source[i]["name"] for i in range(60)}) == 60
    assert {kind_of(source[i]["name"]) for i in range(60)} == set(KINDS)
    other = MixedRain([clean], options, seed=6, versions=20, crop=CROP)
    assert any((other[i]["input"] != source[i]["input"]).any() for i in range(9))
    with pytest.raises(IndexError):
        source[60]


def test_shares_are_kept(options: MixOptions, clean: str) -> None:
    wanted = {"none": 0.5, "light": 1.5, "pairs": 2.0}
    mixed = MixOptions(options.light, pairs=options.pairs, shares=wanted | {"heavy": 0.0})
    source = MixedRain([clean], mixed, versions=400, crop=8)
    kinds = [kind_of(source[i]["name"]) for i in range(len(source))]
    for kind, share in wanted.items():
        assert kinds.count(kind) / len(kinds) == pytest.approx(share / 4, abs=0.05)


def test_without_rain_nothing_is_to_be_changed(options: MixOptions, clean: str) -> None:
    source = MixedRain([clean], only(options, "none", mist=1.0), versions=9, crop=CROP)
    for i in range(len(source)):
        np.testing.assert_array_equal(source[i]["input"], source[i]["target"])


@pytest.mark.parametrize(("kind", "least", "most"), [("light", 20, 80), ("heavy", 85, 200)])
def test_layers_are_those_of_the_pairs(
    options: MixOptions, clean: str, kind: str, least: int, most: int
) -> None:
    """What is added is grey, nowhere negative, and as bright as the pairs' own, times the gain."""
    alone = MixOptions(**{kind: getattr(options, kind)}, shares={kind: 1.0})
    source = MixedRain([clean], alone, versions=40, crop=CROP)
    brightest = []
    for i in range(len(source)):
        added = source[i]["input"].astype(int) - source[i]["target"]
        unclipped = (source[i]["input"] < 255).all(axis=-1)
        assert added.min() >= 0
        assert np.ptp(added[unclipped], axis=-1).max(initial=0) <= 1  # each channel is rounded
        brightest.append(added.max())
    assert least <= np.median(brightest) <= most


def test_targets_are_windows_of_the_photographs_or_of_smaller_copies(
    options: MixOptions, clean: str
) -> None:
    source = MixedRain([clean], only(options, "heavy"), versions=40, crop=CROP)
    windows = 0
    for i in range(len(source)):
        whole = photograph(i % 3)
        views = np.lib.stride_tricks.sliding_window_view(whole, (CROP, CROP, 3))[:, :, 0]
        windows += (views == source[i]["target"]).all(axis=(2, 3, 4)).any()
    assert 0.3 < windows / len(source) < 0.7


def test_mist_lightens_what_is_dark(options: MixOptions, clean: str) -> None:
    def darkest(mist: float) -> float:
        source = MixedRain([clean], only(options, "light", mist), versions=30, crop=CROP)
        return float(np.mean([source[i]["input"].min() for i in range(len(source))]))

    assert darkest(1.0) > darkest(0.0) + 5


@pytest.fixture
def half_white(tmp_path: Path) -> str:
    """A pair under even rain of 100, of whose left half not more than 5 can be seen."""
    for side in ("input", "target"):
        (tmp_path / "white" / side).mkdir(parents=True)
    clean = np.full((40, 96, 3), 250, np.uint8)
    clean[:, 48:] = 60
    rainy = np.minimum(clean.astype(int) + 100, 255).astype(np.uint8)
    write_png(tmp_path / "white/input/0.png", rainy)
    write_png(tmp_path / "white/target/0.png", clean)
    return str(tmp_path / "white")


def added(options: MixOptions, clean: str, crop: int = CROP, count: int = 60) -> np.ndarray:
    """What rain adds to each of some patches, on average."""
    source = MixedRain([clean], options, versions=count, crop=crop)
    pairs = [source[i] for i in range(count)]
    return np.array([(pair["input"].astype(int) - pair["target"]).mean() for pair in pairs])


@pytest.mark.parametrize("kind", ["light", "heavy"])
def test_rain_that_cannot_be_seen_is_not_taken(clean: str, half_white: str, kind: str) -> None:
    def mixed(**keys: float) -> MixOptions:
        return MixOptions(**{kind: (half_white,)}, shares={kind: 1.0}, **keys)

    assert added(mixed(), clean).min() < 5
    assert added(mixed(unknown=0.0), clean).min() > 0.75 * 100 - 1
    # No window of 64 is without the white half: the one that shows most is taken.
    assert added(mixed(unknown=0.0), clean, 64).mean() > added(mixed(), clean, 64).mean() + 5


def test_dense_rain_is_two_windows_of_one_layer(options: MixOptions, clean: str) -> None:
    def mean(kind: str, dense: float) -> float:
        alone = MixOptions(**{kind: getattr(options, kind)}, shares={kind: 1.0}, dense=dense)
        return float(added(alone, clean, count=120).mean())

    assert mean("heavy", 1.0) / mean("heavy", 0.0) == pytest.approx(2, abs=0.3)
    assert mean("heavy", 0.5) / mean("heavy", 0.0) == pytest.approx(1.5, abs=0.2)
    assert mean("light", 1.0) == mean("light", 0.0)


def test_layers_as_they_are_without_gain_warp_and_second_layer(
    options: MixOptions, clean: str
) -> None:
    """One column in eight, of 120: any scale, turn, factor or further layer would show."""
    heavy = {"light": 1e-9, "heavy": 1.0}  # the light ones are loaded, too
    as_they_are = {"gain": (1.0, 1.0), "warped": 0.0, "second": 0.0}
    mixed = MixOptions(options.light, options.heavy, shares=heavy, **as_they_are)
    assert (added(mixed, clean) == 120 / 8).all()
    for key, value, factor in (("gain", (1.1, 1.1), 1.1), ("second", 1.0, 1.25)):
        changed = dataclasses.replace(mixed, **{key: value})
        np.testing.assert_allclose(added(changed, clean), 120 / 8 * factor)
    warped = added(dataclasses.replace(mixed, warped=0.5), clean)
    assert 0.3 < (warped == 120 / 8).mean() < 0.7


def test_without_the_keys_a_seed_gives_the_pairs_of_before_them(
    options: MixOptions, clean: str
) -> None:
    before = [15.75, 11.25, 8.383, 16.727, 17.875, 18.355, 13.098, 5.176]  # measured
    before += [20.75, 14.375, 14.258, 11.707, 15.625, 16.125, 13.375, 12.0]
    mixed = MixOptions(options.light, options.heavy, shares={"light": 0.1, "heavy": 1.0})
    np.testing.assert_allclose(added(mixed, clean, count=16), before, atol=0.01)


def test_photographs_and_layers_smaller_than_the_patch_are_extended(
    options: MixOptions, clean: str
) -> None:
    source = MixedRain([clean], options, versions=10, crop=64)
    assert {source[i]["input"].shape for i in range(len(source))} == {(64, 64, 3)}


def test_the_layer_of_a_pair_is_what_was_added() -> None:
    target = photograph(0)
    layer = np.random.default_rng(1).integers(0, 120, target.shape[:2], dtype=np.uint8)
    np.testing.assert_array_equal(rain_layer(target + layer[..., None], target), layer)


def test_saturated_channels_do_not_say_how_bright_the_layer_was() -> None:
    target = np.array([[[200, 100, 50], [250, 240, 230]]], np.uint8)
    rainy = np.minimum(target.astype(int) + 80, 255).astype(np.uint8)
    np.testing.assert_array_equal(rain_layer(rainy, target), [[80, 25]])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"shares": {"hail": 1.0}}, "unknown kinds hail"),
        ({"shares": {"none": -1.0}}, "shares.none"),
        ({"shares": {"none": 0.0}}, "one must be positive"),
        ({"shares": {"heavy": 1.0}}, "heavy names no folder"),
        ({"mist": 1.5}, "mist"),
        ({"unknown": -0.1}, "unknown"),
        ({"dense": float("nan")}, "dense"),
        ({"warped": 1.01}, "warped"),
        ({"second": -0.5}, "second"),
        ({"mist": "0.5"}, "mist: must be a share from 0 to 1, not '0.5'"),
        ({"shares": {"none": "all"}}, "shares.none: must be a number, not negative, not 'all'"),
        ({"gain": (1.3, 0.7)}, "gain"),
        ({"gain": (0.0, 1.0)}, "gain"),
        ({"gain": (1.0,)}, "gain"),
        ({"gain": (0.5, float("inf"))}, "gain"),
        ({"gain": 1.0}, "gain"),
        ({"gain": ("a", "b")}, "gain"),
    ],
)
def test_impossible_mixtures_are_refused(bad: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MixOptions(**bad)


def configuration(options: MixOptions, clean: str) -> ConfigDict:
    rain = ConfigDict(
        {
            "light": options.light,
            "heavy": options.heavy,
            "streaks": options.streaks,
            "pairs": options.pairs,
            "shares": ConfigDict(dict(options.shares)),
            "mist": options.mist,
        }
    )
    data = ConfigDict({"kind": "mixed", "train": clean, "val": options.light[0]})
    data.update({"rain_versions": 1_000_000, "cache": True, "rain": rain})
    return data


def test_a_run_carries_on_with_the_patches_it_would_have_had(
    options: MixOptions, clean: str
) -> None:
    data = configuration(options, clean)
    source = training_source(data, 3, CROP)
    stages = [Stage(2, 3, 8), Stage(None, 2, CROP)]
    begun = training_batches(source, seed=3, stages=stages, num_threads=2)
    whole = [next(begun) for _ in range(4)]
    resumed = training_batches(
        training_source(data, 3, CROP), seed=3, stages=stages, start_step=2, num_threads=0
    )
    for batch in whole[2:]:
        again = next(resumed)
        for side in ("input", "target"):
            np.testing.assert_array_equal(again[side], batch[side])
    assert len(validation_source(data)) == 2


def test_what_a_configuration_has_wrong_is_named(options: MixOptions, clean: str) -> None:
    data = configuration(options, clean)
    data.rain.shares.none = -1.0
    with pytest.raises(UserError, match=r"config\.data\.rain: shares\.none"):
        training_source(data, 0, CROP)
    data = configuration(options, clean)
    data.rain.heavy = ("nowhere",)
    with pytest.raises(UserError, match="nowhere"):
        training_source(data, 0, CROP)
    data = configuration(options, clean)
    data.train = "nowhere"
    with pytest.raises(UserError, match=r"config\.data\.train: no such folder: nowhere"):
        training_source(data, 0, CROP)
