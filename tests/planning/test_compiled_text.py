"""The reader of compiled programs, on a text by hand and on programs compiled here."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from drsformer_jax.planning.compiled_text import collectives, operations, total_cycles

# As TPU's compiler writes, shortened: a loop of six runs, in it a fusion, a reduction over chips
# and a conditional; what stands in a fusion does not count.
TEXT = """\
HloModule jit_step, is_scheduled=true

%fused (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %twice = f32[8]{0} add(%p, %p), backend_config={"window_config":{"estimated_cycles":"9999"}}
}

%cheap (a: f32[8]) -> f32[8] {
  ROOT %copy.1 = f32[8]{0} copy(%a), backend_config={"window_config":{"estimated_cycles":"1"}}
}

%dear (b: f32[8]) -> f32[8] {
  ROOT %copy.2 = f32[8]{0} copy(%b), backend_config={"window_config":{"estimated_cycles":"20"}}
}

%body (state: (s32[], f32[8])) -> (s32[], f32[8]) {
  %state = (s32[]{:T(128)}, f32[8]{0}) parameter(0)
  %work = f32[8]{0} fusion(%x), kind=kLoop, calls=%fused, metadata={op_name="net/ffn/mul"}, \
backend_config={"window_config":{"estimated_cycles":"100"}}
  %sum = (f32[8]{0}, bf16[4,2]{1,0}) all-reduce-start(%work, %y), to_apply=%add
  %done = (f32[8]{0}, bf16[4,2]{1,0}) all-reduce-done(%sum)
  %either = f32[8]{0} conditional(%i, %work, %work), branch_computations={%cheap, %dear}
  ROOT %next = (s32[], f32[8]) tuple(%i, %either)
}

%condition (state.1: (s32[], f32[8])) -> pred[] {
  %constant.7 = s32[]{:T(128)} constant(6)
  %state.1 = (s32[]{:T(128)}, f32[8]{0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %constant.7), direction=LT
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0:T(256)} parameter(0)
  %start = f32[8]{0} copy(%x), backend_config={"window_config":{"estimated_cycles":"5"}}
  %loop = (s32[]{:T(128)}, f32[8]{0}) while(%init), condition=%condition, body=%body
  ROOT %out = f32[8]{0} get-tuple-element(%loop), index=1
}
"""


def test_loops_and_branches_are_counted_out() -> None:
    assert total_cycles(operations(TEXT)) == 5 + 6 * (100 + 20)


def test_an_operation_tells_where_it_comes_from() -> None:
    (work,) = [operation for operation in operations(TEXT) if operation.name == "work"]
    assert (work.source, work.opcode) == ("net/ffn/mul", "fusion")
    assert (work.runs, work.cycles, work.total_cycles, work.bytes) == (6, 100, 600, 32)


def test_communication_is_counted_once_with_its_bytes() -> None:
    assert collectives(operations(TEXT)) == {"all-reduce": (6, 6 * (8 * 4 + 8 * 2))}


def test_communication_that_fusions_advance_counts_once() -> None:
    gathers = """\
%start (s: f32[4]) -> bf16[8] {
  ROOT %gather.1 = bf16[8]{0} all-gather(%s), frontend_attributes={chain_id="0"}
}

%advance (t: f32[4]) -> bf16[8] {
  ROOT %gather.2 = bf16[8]{0} all-gather(%t), frontend_attributes={chain_id="0"}, \
backend_config={"window_config":{"estimated_cycles":"70"}}
}

%other (u: f32[4]) -> bf16[2] {
  ROOT %gather.3 = bf16[2]{0} all-gather(%u), frontend_attributes={chain_id="1"}
}

"""
    calls = "".join(
        f"  %f.{i} = bf16[8]{{0}} fusion(%x), kind=kCustom, calls=%{name}\n"
        for i, name in enumerate(("start", "advance", "other"))
    )
    loop = "  %loop = (s32[]"
    found = operations((gathers + TEXT).replace(loop, calls + loop))
    assert collectives(found)["all-gather"] == (2, 8 * 2 + 2 * 2)
    assert total_cycles(found) == total_cycles(operations(TEXT))


def test_loop_of_unknown_length_is_refused() -> None:
    with pytest.raises(ValueError, match="loop loop does not say how often it runs"):
        operations(TEXT.replace("direction=LT", "direction=NE"))


def test_other_text_is_refused() -> None:
    with pytest.raises(ValueError, match="no ENTRY computation"):
        operations("module @jit_f {}")


def test_scan_compiled_here() -> None:
    def program(x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda y, _: (jnp.sin(y) @ y, None), x, length=7)[0]

    text = jax.jit(program).lower(jnp.ones((64, 64))).compile().as_text()
    assert max(operation.runs for operation in operations(text)) == 7
