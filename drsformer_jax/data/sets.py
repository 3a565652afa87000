"""The deraining data sets by name: what they hold, where they are from, how they are scored.

Counts and protocols: the papers; published scores: DRSformer (CVPR 2023), table 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from drsformer_jax.errors import UserError

RESEARCH = "no licence stated; published for research"


@dataclasses.dataclass(frozen=True)
class DataSet:
    """One data set.

    Attributes:
      name: as it is typed: letters and digits.
      title: as papers print it.
      pairs: number of pairs by split, "train" and "test".
      protocol: by which its published scores were computed; see `scores.protocols`.
      published: PSNR in dB and SSIM that the paper reports for DRSformer on the test split; None
        where it reports none.
      homepage, citation: of the set.
      licence: in words.
      content: one sentence.
      halves: one file holds both sides of a pair, the clean one at the left.
      input_psnr: mean Y-PSNR in dB of the rainy images by split, by `protocol`, where it is known.
    """

    name: str
    title: str
    pairs: Mapping[str, int]
    protocol: str
    published: tuple[float, float] | None
    homepage: str
    citation: str
    content: str
    licence: str = RESEARCH
    halves: bool = False
    input_psnr: Mapping[str, float] = dataclasses.field(default_factory=dict)


_YANG = "Yang et al., Deep Joint Rain Detection and Removal from a Single Image, CVPR 2017"
_YANG_PAGE = "https://www.icst.pku.edu.cn/struct/Projects/joint_rain_removal.html"

SETS: Mapping[str, DataSet] = {
    data_set.name: data_set
    for data_set in (
        DataSet(
            name="rain200l",
            title="Rain200L",
            pairs={"train": 1_800, "test": 200},
            protocol="rain200",
            published=(41.23, 0.9894),
            homepage=_YANG_PAGE,
            citation=_YANG,
            content="Photographs with light rendered rain, streaks of one kind.",
        ),
        DataSet(
            name="rain200h",
            title="Rain200H",
            pairs={"train": 1_800, "test": 200},
            protocol="rain200",
            published=(32.17, 0.9326),
            homepage=_YANG_PAGE,
            citation=_YANG,
            content="Photographs with heavy rendered rain, streaks of five kinds.",
        ),
        DataSet(
            name="did",
            title="DID-Data",
            pairs={"train": 12_000, "test": 1_200},
            protocol="did_ddn",
            published=(35.35, 0.9646),
            homepage="https://github.com/hezhangsprinter/DID-MDN",
            citation=(
                "Zhang and Patel, Density-aware Single Image De-raining using a Multi-stream Dense "
                "Network, CVPR 2018"
            ),
            content="Photographs of 512x512 with rendered rain of three densities.",
        ),
        DataSet(
            name="ddn",
            title="DDN-Data",
            pairs={"train": 12_600, "test": 1_400},
            protocol="did_ddn",
            published=(34.35, 0.9588),
            homepage="https://xueyangfu.github.io/projects/cvpr2017.html",
            citation=(
                "Fu et al., Removing Rain from Single Images via a Deep Detail Network, CVPR 2017"
            ),
            content="Fourteen renderings of rain over each of 1,000 photographs.",
        ),
        DataSet(
            name="spa",
            title="SPA-Data",
            pairs={"train": 638_492, "test": 1_000},
            protocol="rain200",
            published=(48.54, 0.9924),
            homepage="https://stevewongv.github.io/derain-project.html",
            citation=(
                "Wang et al., Spatial Attentive Single-Image Deraining with a High Quality Real "
                "Rain Dataset, CVPR 2019"
            ),
            content="Real rain; the clean images are made from many frames of one scene.",
        ),
        DataSet(
            name="rain100l",
            title="Rain100L",
            pairs={"train": 200, "test": 100},
            protocol="rain200",
            published=None,
            homepage=_YANG_PAGE,
            citation=_YANG,
            content="Photographs with light rendered rain; the first version of Rain200L.",
            input_psnr={"test": 26.90},
        ),
        DataSet(
            name="rain100h",
            title="Rain100H",
            pairs={"train": 1_800, "test": 100},
            protocol="rain200",
            published=None,
            homepage=_YANG_PAGE,
            citation=_YANG,
            content="Photographs with heavy rendered rain; the first version of Rain200H.",
            input_psnr={"test": 13.56},
        ),
        DataSet(
            name="rain800",
            title="Rain800",
            pairs={"train": 700, "test": 100},
            protocol="rain200",
            published=None,
            homepage="https://github.com/hezhangsprinter/ID-CGAN",
            citation=(
                "Zhang, Sindagi and Patel, Image De-raining Using a Conditional Generative "
                "Adversarial Network, arXiv 1701.05957"
            ),
            content="Photographs with rendered rain; both sides of a pair in one JPEG.",
            halves=True,
        ),
    )
}


def get_set(name: str) -> DataSet:
    """The data set of that name.

    Raises:
      UserError: there is none; the message lists all.
    """
    try:
        return SETS[name]
    except KeyError:
        raise UserError(f"unknown data set {name!r}: known are {', '.join(SETS)}") from None
