"""What a program moves through memory, on a text by hand and on programs compiled here."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from benchmarks.traffic import traffic_bytes

# As XLA writes for a GPU, shortened: a loop of three runs that takes its step's parameters (16
# bytes of 48) and replaces a row (16 of 48) of what it has made, and a slice that starts early.
LOOP = """\
HloModule jit_f, is_scheduled=true

%fused_row (p.0: f32[3,4], p.1: s32[], p.2: f32[4]) -> f32[4] {
  %p.0 = f32[3,4]{1,0} parameter(0)
  %p.2 = f32[4]{0} parameter(2)
  %p.1 = s32[] parameter(1)
  %row = f32[1,4]{1,0} dynamic-slice(%p.0, %p.1, %p.1), dynamic_slice_sizes={1,4}
  ROOT %sum = f32[4]{0} add(%row, %p.2)
}

%fused_put (q.0: f32[3,4], q.1: f32[4], q.2: s32[]) -> f32[3,4] {
  %q.0 = f32[3,4]{1,0} parameter(0)
  %q.1 = f32[4]{0} parameter(1)
  %one = f32[1,4]{1,0} bitcast(%q.1)
  %q.2 = s32[] parameter(2)
  ROOT %put = f32[3,4]{1,0} dynamic-update-slice(%q.0, %one, %q.2, %q.2)
}

%fused_early (r.0: f32[3,4], r.1: s32[]) -> f32[1,4] {
  %r.0 = f32[3,4]{1,0} parameter(0)
  %r.1 = s32[] parameter(1)
  ROOT %early = f32[1,4]{1,0} dynamic-slice(%r.0, %r.1, %r.1), dynamic_slice_sizes={1,4}
}

%body (state: (s32[], f32[3,4], f32[3,4])) -> (s32[], f32[3,4], f32[3,4]) {
  %state = (s32[], f32[3,4]{1,0}, f32[3,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %stack = f32[3,4]{1,0} get-tuple-element(%state), index=1
  %made = f32[3,4]{1,0} get-tuple-element(%state), index=2
  %x = f32[4]{0} fusion(%stack, %i, %vector), kind=kLoop, calls=%fused_row
  %next = f32[3,4]{1,0} fusion(%made, %x, %i), kind=kLoop, calls=%fused_put
  %vector = f32[4]{0} constant({1, 2, 3, 4})
  ROOT %out = (s32[], f32[3,4]{1,0}, f32[3,4]{1,0}) tuple(%i, %stack, %next)
}

%condition (s: (s32[], f32[3,4], f32[3,4])) -> pred[] {
  %s = (s32[], f32[3,4]{1,0}, f32[3,4]{1,0}) parameter(0)
  ROOT %always = pred[] constant(true)
}

ENTRY %main (a: f32[3,4], b: f32[3,4], j: s32[]) -> (s32[], f32[3,4], f32[3,4]) {
  %a = f32[3,4]{1,0} parameter(0)
  %b = f32[3,4]{1,0} parameter(1)
  %j = s32[] parameter(2)
  %start = ((f32[3,4]{1,0}, s32[]), f32[1,4]{1,0}, u32[]) fusion-start(%a, %j), kind=kLoop, \
calls=%fused_early
  %done = f32[1,4]{1,0} fusion-done(%start)
  %init = (s32[], f32[3,4]{1,0}, f32[3,4]{1,0}) tuple(%j, %a, %b)
  ROOT %loop = (s32[], f32[3,4]{1,0}, f32[3,4]{1,0}) while(%init), condition=%condition, \
body=%body, backend_config={"known_trip_count":{"n":"3"}}
}
"""


def test_slices_of_stacks_count_and_not_the_stacks() -> None:
    row = 16 + 4 + 16 + 16  # a row, its index, the vector, the result
    put = 16 + 4 + 16  # a row, its index, the row in its place
    early = 16 + 4 + 16 + 4  # a row, its index, the result, and the word of who waits for it
    assert traffic_bytes(LOOP) == 3 * (row + put) + early


def test_a_program_compiled_here() -> None:
    def program(x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.sin(x) * y + 2 * y

    x = jnp.ones((64, 64))
    text = jax.jit(program).lower(x, x).compile().as_text()
    assert traffic_bytes(text) == 3 * 64 * 64 * 4  # one kernel: two arrays read, one written


def test_other_text_is_refused() -> None:
    with pytest.raises(ValueError, match="no ENTRY computation"):
        traffic_bytes("module @jit_f {}")
