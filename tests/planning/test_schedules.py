"""The reader of scheduled programs, on a text by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from drsformer_jax.planning.chips import CHIPS
from drsformer_jax.planning.schedules import Schedule, read_schedule, schedule_of

# As TPU's compiler writes, shortened: a pipelined grid of four steps and two rounds more, in it a
# loop of 32 rounds; an empty bundle is written as if it were outside, one in the middle of a loop
# may be marked as if it were in the loop around, and long bundles go on.
TEXT = """\
= control target key start
LB: loop body
= control target key end

     0   :  { %10 = vsyncpa [#allocation7], 0 }
   0x1 LB: > { %s1 = sadd.s32 1, %s2 }
   0x2   :  {} /* End region 50 */
   0x3 LB: >> { %9 = vmatmul.bf16.gmra.mxu1 %v1  ;;  %8 = vmatmul.bf16.gmra.mxu0 %v2 }
   0x4   : > { %s8 = smov.u32 (%p9), 0 /* copy for cssa */ }
   0x5   : >> { %p9 = scmp.ge.s32.totalorder %s9, 32 /* loop exit test */ }
   0x6   :  {}
   0x7 PF: > { %s3 = scmp.ge.s32.totalorder %s9, 5 }
   0x8   : > { %7 = vmatmul.bf16.gmra.mxu1 %v1 /*
second_minor_factor: 1 */ ;; %6 = vmatmul.bf16.gmra.mxu2 %v1 }
   0x9   : > { %p2 = scmp.ge.s32.totalorder %s24_s28, 6 /* loop exit test */ }
   0xa   :  { %1 = vsyncpa [#allocation7], 1 }
"""


def test_bundles_times_trips() -> None:
    """Two outside, six in each of four steps, three in each of 32 rounds of them."""
    assert read_schedule(TEXT, 4) == Schedule(2 + 4 * (6 + 32 * 3), 4 * (2 + 32 * 2))
    # Not a pipelined grid, but a loop of six.
    assert read_schedule(TEXT, 1) == Schedule(2 + 6 * (6 + 32 * 3), 6 * (2 + 32 * 2))


def test_the_largest_bound_counts() -> None:
    chip = CHIPS["v5e"]
    assert round(chip.bytes_a_cycle) == 442
    assert Schedule(1000, 10).cycles(chip, 442) == 1000
    assert Schedule(1000, 300).cycles(chip, 442) == 1200
    assert Schedule(1000, 300).cycles(chip, 442_260 * 4) == 4000


def test_what_is_no_schedule_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a scheduled program"):
        read_schedule("no program", 4)
    with pytest.raises(ValueError, match="all say how often they run"):
        read_schedule(TEXT.replace("32 /* loop exit test */", "%s8"), 4)
    (tmp_path / "17-msfn_8_gradient.1-01-final_bundles.txt").write_text(TEXT)
    (tmp_path / "17-msfn_8.1-00-schedule-analysis_final_bundles.txt").write_text("")
    with pytest.raises(ValueError, match="no schedule of msfn_8"):
        schedule_of(tmp_path, "msfn_8", 4)
    assert schedule_of(tmp_path, "msfn_8_gradient", 4) == read_schedule(TEXT, 4)
