"""bench/sass_report.py against kernels whose machine code is known in outline; gpuq's own kernels against its rules."""

from __future__ import annotations

import itertools
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import gpuq.cuda
from bench import sass_report
from bench.sass_report import Flow, Instruction, report, report_all, stored_bytes, tables, tool
from gpuq.cuda import compile as compiling
from gpuq.cuda import conv2d, conv2d_stem
from gpuq.cuda import depthwise_conv2d as depthwise
from gpuq.cuda.compile import ARCHS, nvrtc_cubin, program_of
from gpuq.cuda.epilogue import epilogue_defines
from gpuq.cuda.kernel import Kernel
from gpuq.ops.spec import INT8, UINT8

from .cuda_layers import EVERYTHING
from .test_cuda_compile import require_nvrtc

SOURCES = {
    "dot.cu": """
        extern "C" __global__ void dot(const int4* a, const int4* b, int* c, int n)
        {
            int sum = 0;
            #pragma unroll 1
            for (int i = threadIdx.x; i < n; i += blockDim.x) {
                int4 x = a[i], y = b[i];
                sum = __dp4a(x.x, y.x, sum);
                sum = __dp4a(x.y, y.y, sum);
                sum = __dp4a(x.z, y.z, sum);
                sum = __dp4a(x.w, y.w, sum);
            }
            c[threadIdx.x] = sum;
        }
    """,
    # A tile of TILE x TILE outputs per thread; full tiles store words, others byte by byte under a guard.
    "tile.cu": """
        extern "C" __global__ void __launch_bounds__(64) tile(const int4* x, signed char* y, int steps, int width)
        {
            __shared__ int4 s[2][256];
            int acc[TILE][TILE] = {};
            #pragma unroll 1
            for (int step = 0; step < steps; ++step) {
                __syncthreads();
                s[0][threadIdx.x] = x[step * 64 + threadIdx.x];
                s[1][threadIdx.x] = x[step * 64 + threadIdx.x + 32];
                __syncthreads();
                #pragma unroll
                for (int k = 0; k < 8; ++k) {
                    int4 a = s[0][threadIdx.x / 8 + k], b = s[1][threadIdx.x % 8 + k];
                    int as[4] = {a.x, a.y, a.z, a.w}, bs[4] = {b.x, b.y, b.z, b.w};
                    #pragma unroll
                    for (int i = 0; i < TILE; ++i)
                        #pragma unroll
                        for (int j = 0; j < TILE; ++j) acc[i][j] = __dp4a(as[i], bs[j], acc[i][j]);
                }
            }
            int column = TILE * (threadIdx.x % 8);
            #pragma unroll
            for (int i = 0; i < TILE; ++i) {
                signed char* row = y + (threadIdx.x / 8 * TILE + i) * width;
                signed char out[TILE];
                #pragma unroll
                for (int j = 0; j < TILE; ++j) out[j] = max(-128, min(127, acc[i][j] >> 8));
                if (column + TILE <= width)
                    *(char4*)&row[column] = make_char4(out[0], out[1], out[2], out[3]);
                else
                    for (int j = 0; j < TILE; ++j)
                        if (column + j < width) row[column + j] = out[j];
            }
        }
    """,
    "spill.cu": """
        extern "C" __global__ void __launch_bounds__(1024) spill(const int* x, int* y, int n)
        {
            int v[96];
            #pragma unroll
            for (int i = 0; i < 96; ++i) v[i] = x[i * 1024 + threadIdx.x];
            for (int k = 0; k < n; ++k)
                #pragma unroll
                for (int i = 0; i < 96; ++i) v[i] = v[i] * v[(i + 1) % 96] + k;
            #pragma unroll
            for (int i = 0; i < 96; ++i) y[i * 1024 + threadIdx.x] = v[i];
        }
    """,
    "local.cu": """
        extern "C" __global__ void local(const int* x, int* y, int n)
        {
            int v[200];
            for (int i = 0; i < 200; ++i) v[i] = 0;
            for (int i = 0; i < n; ++i) v[x[i] % 200u] += i;
            y[threadIdx.x] = v[threadIdx.x % 200u];
        }
    """,
    "affine.cuh": """
        // __fmaf_rn in a comment names nothing
        __device__ __forceinline__ float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }
        __device__ __forceinline__ float apart(float a, float b, float c) { return a * b + c; }
    """,
    "affine.cu": """
        #include "affine.cuh"
        extern "C" __global__ void affine(float* y, float b, float c) { y[threadIdx.x] = HOW(y[threadIdx.x], b, c); }
    """,
    "plain.cu": """
        // __fmaf_rn(x, y, z) and /* __fma_rn */ in comments name nothing.
        extern "C" __global__ void plain(TYPE* y, TYPE b, TYPE c) { y[threadIdx.x] = y[threadIdx.x] EXPRESSION; }
    """,
    "map.cu": """
        extern "C" __global__ void map(const int* x, int* y, int n)
        {
            #pragma unroll 1
            for (int i = threadIdx.x; i < n; i += 256) y[i] = x[i] * 3 + 1;
        }
    """,
    "unused.cu": """
        extern "C" __global__ void unused(int* y) { int nothing; __shared__ int s[300]; s[threadIdx.x] = y[0];
            __syncthreads(); y[threadIdx.x] = s[299 - threadIdx.x]; }
    """,
}


def kernel(entry: str, *defines: tuple[str, int | str], name: str = "", threads: int = 32) -> Kernel:
    return Kernel(name or entry, f"{entry}.cu", entry, defines, (threads, 1, 1))


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUQ_CACHE_DIR", "")


def require_tools() -> None:
    """Skips where NVRTC or the disassembler is missing, except in CI."""
    require_nvrtc()
    for name in ("nvdisasm", "cuobjdump"):
        try:
            tool(name)
        except FileNotFoundError as error:
            if os.environ.get("CI"):
                pytest.fail(str(error))
            pytest.skip(str(error))


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_tools()
    folder = tmp_path_factory.mktemp("kernels")
    for name, text in SOURCES.items():
        (folder / name).write_text(text)
    return folder


# ---- what the compiler made of known kernels ----


def test_dp4a_loop_on_every_arch(sources: Path) -> None:
    reports = report_all([kernel("dot", name="dot_dp4a")], ARCHS, sources)
    assert [each.arch for each in reports] == [str(arch) for arch in ARCHS]
    for each in reports:
        assert each.problems == (), each
        assert each.loop is not None
        assert each.loop.multiplies == 4
        assert each.loop.opcodes["IDP.4A.S8.S8"] == 4
        assert 10 <= each.loop.instructions <= 16
        assert (each.loop.loads_global_16, each.loop.loads_shared_16, each.loop.inner_loops) == (2, 0, 0)
        assert 10 <= each.registers <= 40
        assert (each.stack_bytes, each.local_accesses, each.shared_bytes) == (0, 0, 0)
        assert each.fma == {"FFMA": 0, "DFMA": 0}
        assert each.outputs is not None
        assert (each.outputs.where, each.outputs.bytes) == ("after loop", 4)
        assert each.milliseconds > 0


@pytest.mark.parametrize("arch", [75, 80, "90a", 120])
def test_tile(sources: Path, arch: int | str) -> None:
    found = report(kernel("tile", ("TILE", 4), name="tile_dp4a_4x4", threads=64), arch, sources)
    assert found.problems == ()
    assert found.loop is not None
    assert found.loop.multiplies == 4 * 4 * 8
    assert found.loop.share > 0.75
    assert (found.loop.loads_global_16, found.loop.loads_shared_16) == (2, 16)
    assert found.shared_bytes == 2 * 256 * 16
    # The way of a full tile: one byte per output, and none of the byte stores beside the words.
    assert found.outputs is not None
    assert (found.outputs.where, found.outputs.bytes) == ("after loop", 16)
    assert 2 < found.outputs.per_byte < 12


def test_stores_in_the_loop_and_without_a_loop(sources: Path) -> None:
    found = report(kernel("map"), 90, sources)
    assert found.outputs is not None
    assert found.loop is not None
    assert (found.outputs.where, found.outputs.bytes, found.loop.multiplies) == ("loop", 4, 0)
    assert found.outputs.instructions <= found.loop.instructions <= 20
    found = report(kernel("unused", threads=300), 75, sources)
    assert found.loop is None
    assert found.outputs is not None
    assert (found.outputs.where, found.outputs.bytes) == ("kernel", 4)


@pytest.mark.parametrize("arch", [75, 120])
def test_spills_are_reported(sources: Path, arch: int) -> None:
    found = report(kernel("spill", threads=1024), arch, sources)
    assert found.registers <= 64
    assert found.spill_store_bytes >= 4 * 32
    assert found.spill_load_bytes >= 4 * 32
    assert found.stack_bytes >= 4 * 32
    assert found.local_accesses > 0
    (problem,) = found.problems
    assert problem.startswith(f"spills: {found.spill_store_bytes} bytes stored")


def test_local_array_is_reported(sources: Path) -> None:
    found = report(kernel("local"), 90, sources)
    assert (found.spill_store_bytes, found.spill_load_bytes) == (0, 0)
    assert found.stack_bytes == 800
    assert found.local_accesses > 0
    (problem,) = found.problems
    assert problem == f"local memory: 800 bytes a thread, {found.local_accesses} accesses"


def test_registers_beyond_the_launch(sources: Path) -> None:
    # Compiled for 64 threads a block, as its launch bounds say, and launched with 1024: 64 registers are left.
    found = report(kernel("tile", ("TILE", 4), threads=1024), 80, sources)
    limit = 64
    over = found.registers > limit
    assert over == any(problem.startswith(f"{found.registers} registers: 1024 threads") for problem in found.problems)
    many = replace(found, registers=65)
    assert list(sass_report.problems(kernel("tile", threads=1000), many)) == ["65 registers: 1000 threads leave 64"]
    assert list(sass_report.problems(kernel("tile", threads=992), many)) == ["65 registers: 992 threads leave 64"]
    assert list(sass_report.problems(kernel("tile", threads=896), many)) == []


def test_warnings_and_shared_memory(sources: Path) -> None:
    for arch in (80, 90):  # CUDA's own 1024 bytes on sm_90 are not the source's
        found = report(kernel("unused", threads=300), arch, sources)
        assert found.shared_bytes == 1200
        assert 'warning #177-D: variable "nothing" was declared but never referenced' in found.warnings
        assert "ptxas" not in found.warnings
        (problem,) = found.problems
        assert problem.startswith("warnings: unused.cu(2): warning")


def test_name_and_code_must_agree(sources: Path) -> None:
    found = report(kernel("map", name="map_dp4a"), 80, sources)
    assert found.problems == (r"dp4a in its name, no IDP\.4A in its main loop",)
    found = report(kernel("dot", name="dot_imma_64x64"), 80, sources)
    assert found.problems == ("imma in its name, no IMMA in its main loop",)


# ---- fused multiply-add ----


@pytest.mark.parametrize(("kind", "mnemonic"), [("float", "FFMA"), ("double", "DFMA")])
@pytest.mark.parametrize("arch", [75, 120])
def test_nothing_is_contracted(
    sources: Path, monkeypatch: pytest.MonkeyPatch, kind: str, mnemonic: str, arch: int
) -> None:
    plain = kernel("plain", ("TYPE", kind), ("EXPRESSION", "* b + c"))
    found = report(plain, arch, sources)
    assert found.fma == {"FFMA": 0, "DFMA": 0}
    assert found.problems == ()
    # Without the option NVRTC contracts, and the report tells.
    monkeypatch.setattr(compiling, "OPTIONS", tuple(each for each in compiling.OPTIONS if "fmad" not in each))
    found = report(plain, arch, sources)
    assert found.unnamed_fma[mnemonic] == found.fma[mnemonic] == 1
    assert found.problems == (f"1 {mnemonic} that the source does not name",)


def test_a_named_one_is_welcome(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fused, apart = kernel("affine", ("HOW", "fused")), kernel("affine", ("HOW", "apart"))
    found = report(fused, 80, sources)
    assert (found.fma["FFMA"], found.unnamed_fma["FFMA"], found.problems) == (1, 0, ())
    assert report(apart, 80, sources).fma["FFMA"] == 0
    # The header's __fmaf_rn excuses only those who use it.
    monkeypatch.setattr(compiling, "OPTIONS", ("--std=c++17", "--fmad=true"))
    assert report(apart, 80, sources).problems == ("1 FFMA that the source does not name",)
    assert report(fused, 80, sources).problems == ()


def test_division(sources: Path) -> None:
    for expression, unnamed in (("/ b", True), ("* 0 + __fdiv_rn(y[threadIdx.x], b)", False)):
        found = report(kernel("plain", ("TYPE", "float"), ("EXPRESSION", expression)), 86, sources)
        assert found.fma["FFMA"] > 4
        assert bool(found.problems) is unnamed, found.problems
    for expression, unnamed in (("/ b", True), ("* 0 + __ddiv_rn(y[threadIdx.x], b)", False)):
        found = report(kernel("plain", ("TYPE", "double"), ("EXPRESSION", expression)), 86, sources)
        assert (found.fma["FFMA"] > 0, found.fma["DFMA"] > 4) == (True, True)
        assert bool(found.problems) is unnamed, found.problems
    found = report(kernel("plain", ("TYPE", "long long"), ("EXPRESSION", "/ b % c")), 86, sources)
    assert found.fma == {"FFMA": 0, "DFMA": 0}


# ---- control flow, by hand ----


def code(text: str) -> list[Instruction]:
    """Instructions, one a line; a branch names the line that it goes to."""
    found = []
    for line in text.strip().splitlines():
        words = line.split()
        predicate = words.pop(0) if words[0].startswith("@") else ""
        opcode, operands = words[0], "".join(words[1:])
        if opcode.split(".")[0] in ("BRA", "CALL") and operands:
            *before, target = operands.split(",")
            operands = ",".join([*before, hex(16 * int(target))])
        found.append(Instruction(predicate, opcode, operands))
    return found


def test_inner_loop_owns_its_work() -> None:
    flow = Flow(
        code(
            """
            S2R R0
            IDP.4A R1
            IDP.4A R2
            IDP.4A R3
            @P0 BRA 2
            LDS.128 R4
            @P1 BRA 1
            STG.E.64 R5
            EXIT
            BRA 9
            """
        )
    )
    assert sorted(len(body) for body in flow.loops.values()) == [1, 3]
    loop = flow.main_loop()
    assert loop is not None
    assert (loop.instructions, loop.multiplies, loop.inner_loops) == (3, 2, 0)
    outputs = flow.outputs()
    assert outputs is not None
    # The rest of the outer loop's body comes after the main loop too.
    assert (outputs.where, outputs.instructions, outputs.bytes) == ("after loop", 3, 8)


def test_helper_loop_inside_the_main_loop() -> None:
    flow = Flow(
        code(
            """
            IDP.4A R1
            LDG.E.128 R2
            LDGSTS.E.BYPASS.128 R3
            @P0 BRA 1
            IMMA.16832.S8.S8 R4
            @P1 BRA 0
            EXIT
            """
        )
    )
    loop = flow.main_loop()
    assert loop is not None
    assert (loop.instructions, loop.multiplies, loop.loads_global_16, loop.inner_loops) == (3, 2, 0, 1)
    assert flow.outputs() is None


def test_branch_around_the_back_edge() -> None:
    # ptxas leaves a loop by a call that never returns, and puts the condition of a branch among its operands.
    flow = Flow(
        code(
            """
            IDP.4A R1
            @P0 CALL.REL.NOINC 3
            BRA 0
            IMAD R2
            BRA.U UP0, 6
            STG.E.U8 R3
            EXIT
            """
        )
    )
    loop, outputs = flow.main_loop(), flow.outputs()
    assert loop is not None
    assert (loop.instructions, loop.multiplies) == (3, 1)
    assert outputs is not None
    assert (outputs.where, outputs.instructions, outputs.bytes) == ("after loop", 3, 1)


def test_code_behind_a_far_jump_is_not_reached() -> None:
    flow = Flow(code("MOV R1\nCALL.REL.NOINC 3\nSTG.E.128 R2\nSTG.E.U8 R3\nEXIT"))
    outputs = flow.outputs()
    assert outputs is not None
    assert (outputs.instructions, outputs.bytes) == (3, 1)


def test_subroutine_is_one_instruction() -> None:
    flow = Flow(
        code(
            """
            MOV R1
            CALL.REL.NOINC 5
            STG.E R2
            EXIT
            BRA 4
            MUFU.RCP R3
            STG.E.128 R9
            RET.REL.NODEC R20
            """
        )
    )
    outputs = flow.outputs()
    assert flow.main_loop() is None
    assert outputs is not None
    assert (outputs.where, outputs.instructions, outputs.bytes) == ("kernel", 3, 4)


@pytest.mark.parametrize(("slow", "want"), [("STG.E.U8 R5", (5, 16)), ("STG.E.64 R5", (9, 18))])
def test_fast_way_through_a_guard(slow: str, want: tuple[int, int]) -> None:
    flow = Flow(
        code(
            f"""
            ISETP.GE P0,PT,R1
            @!P0 STG.E.64 R2
            @!P0 BRA 7
            @!P1 STG.E.U8 R3
            @!P2 STG.E.U8 R4
            @!P3 {slow}
            @P4 EXIT
            MOV R2
            STG.E.64 R2
            EXIT
            """
        )
    )
    # Past the guard 8 + 8 bytes in 5 instructions. Through it P0 holds, so that the first store does not happen:
    # 1 + 1 + 1 + 8 bytes, or with a wide store more than the fast way has.
    outputs = flow.outputs()
    assert outputs is not None
    assert (outputs.instructions, outputs.bytes) == want


def test_opposite_predicates() -> None:
    block = code(
        """
        @P0 STG.E.64 R1
        @!P0 STG.E.U8 R2
        @!P0 STG.E.U16 R3
        STG.E R4
        ISETP.GE P0,PT,R1
        @!P0 STG.E R5
        @P0 BRA 0
        """
    )
    assert stored_bytes(block, None) == (8 + 4 + 4, 5)
    assert stored_bytes(block, True) == (8 + 4, 3)
    assert stored_bytes(block, False) == (8 + 4 + 4, 5)
    assert stored_bytes([], None) == (0, -1)


def test_store_widths() -> None:
    widths = {
        "STG.E": 4,
        "STG.E.SYS": 4,
        "STG.E.U8": 1,
        "STG.E.S16": 2,
        "STG.E.64.STRONG.GPU": 8,
        "STG.E.128": 16,
        "STG.E.ENL2.256": 32,
        "RED.E.ADD.STRONG.GPU": 4,
        "STS.128": 0,
        "LDG.E.128": 0,
    }
    assert {opcode: Instruction("", opcode, "desc[UR4][R2.64],R5").stored_bytes for opcode in widths} == widths


def test_dead_code_and_indirect_branches() -> None:
    flow = Flow(code("MOV R1\nBRX R2\nIDP.4A R3\nBRA 2\nEXIT"))
    assert flow.order == [0]
    assert flow.main_loop() is None


# ---- the program ----


def test_tables_and_command_line(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "table_of_a_test.py").write_text(
        "from gpuq.cuda.kernel import Kernel\n"
        "KERNELS = [Kernel('dot_dp4a', 'dot.cu', 'dot', (), (32, 1, 1)),"
        " Kernel('local_alu', 'local.cu', 'local', (), (32, 1, 1), min_arch=80)]\n"
    )
    monkeypatch.setattr(gpuq.cuda, "__path__", [*gpuq.cuda.__path__, str(tmp_path)])
    monkeypatch.setattr(compiling, "resource", lambda name: sources)
    try:
        assert [each.name for each in tables()][-2:] == ["dot_dp4a", "local_alu"]
        assert sass_report.main(["--kernel", "dot_d*", "--arch", "80", "--json", "--check"]) == 0
        (found,) = json.loads(capsys.readouterr().out)
        assert (found["kernel"], found["arch"], found["loop"]["multiplies"]) == ("dot_dp4a", "80", 4)
        assert 0 < found["loop"]["share"] < 1
        assert found["outputs"]["per_byte"] > 0
        assert sass_report.main(["--kernel", "local_*", "--arch", "75", "90", "--check"]) == 1
        text = capsys.readouterr().out
        assert "local_alu sm_90: local memory: 800 bytes" in text
        assert "sm_75" not in text
        assert sass_report.main(["--kernel", "no such"]) == 0
        assert "no KERNELS table has a kernel no such" in capsys.readouterr().err
    finally:
        sys.modules.pop("gpuq.cuda.table_of_a_test", None)


def test_tools_take_what_is_compiled(sources: Path, tmp_path: Path) -> None:
    dot = kernel("dot")
    cubin, _ = nvrtc_cubin(dot, 90, program_of(dot, 90, sources))
    path = tmp_path / "dot.cubin"
    path.write_bytes(cubin[:-1])  # what CuPy returns
    with pytest.raises(ValueError, match=r"nvdisasm.*invalid ELF"):
        sass_report.disassemble(path, "dot")
    path.write_bytes(cubin)
    assert len(sass_report.disassemble(path, "dot")) > 20
    # An entry of the cache: the checksum behind the ELF disturbs nobody.
    path.write_bytes(cubin + bytes(32))
    assert len(sass_report.disassemble(path, "dot")) > 20
    assert sass_report.resource_usage(path, "dot")["REG"] > 8
    with pytest.raises(ValueError, match="no function other"):
        sass_report.resource_usage(path, "other")


GATE = [(each, arch) for each in tables() for arch in ARCHS if arch >= each.min_arch]
READ = ARCHS if EVERYTHING else (75, 90, 120)
"""Architectures whose machine code is read for every kernel; of the others, what the compiler says of it."""


@pytest.mark.parametrize(("row", "arch"), GATE, ids=[f"{each.name}-sm_{arch}" for each, arch in GATE])
def test_every_kernel_of_gpuq(row: Kernel, arch: int) -> None:
    require_tools()
    assert report(row, arch, with_code=arch in READ).problems == ()


def test_without_its_code_a_kernel_may_still_spill(sources: Path) -> None:
    found = report(kernel("spill", threads=1024), 80, sources, with_code=False)
    assert found.instructions == 0
    assert [problem.split(":")[0] for problem in found.problems] == ["spills"]
    assert report(kernel("dot", name="dot_dp4a"), 80, sources, with_code=False).problems == ()


# ---- what the convolutions' speed rests on ----

RULES = ("RULE_V1_RIGHT", "RULE_V1", "RULE_V1U", "RULE_V2", "RULE_V4", "RULE_V6")


# A residual as it mostly comes, and all that can follow.
FUSED = (
    (("FUSED_SUM", 1), ("SUM_RULE", "RULE_V1_RIGHT"), ("SUM_CLAMP", 0), ("SUM_A_TABLE", 0), ("SUM_B_TABLE", 1)),
    (
        *(("FUSED_SUM", 1), ("SUM_RULE", "RULE_V1_RIGHT"), ("SUM_CLAMP", 1), ("SUM_A_TABLE", 1), ("SUM_B_TABLE", 1)),
        ("FUSED_MAP", 1),
    ),
)


def variants(everything: bool) -> dict[str, Kernel]:
    """Kernels of the convolutions as other layers compile them, dealt: each row meets each rule.

    everything  each row with each rule, dtype, way of loading and clamp (a run of `make test-host`)
    """
    found: dict[str, Kernel] = {}
    tiles = (
        *conv2d.IGEMM_TILES,
        *conv2d.DIRECT_TILES,
        *conv2d_stem.TILES,
        *depthwise.ROWS_TILES,
        *depthwise.TAPS_TILES,
    )
    # uint8 with weights that have a zero point, loads from wide to single bytes, clamps.
    kinds = [(unsigned, load, clamps) for unsigned in (False, True) for load in range(4) for clamps in (False, True)]
    for (row, tile), (number, rule) in itertools.product(enumerate(tiles), enumerate(RULES)):
        for unsigned, load, clamps in kinds if everything else [kinds[(5 * row + 7 * number) % len(kinds)]]:
            epilogue = epilogue_defines(rule, UINT8 if unsigned else INT8, clamps)
            if isinstance(tile, conv2d.Dp4aIgemmTile):
                output = "OUTPUT_PARTIAL" if clamps and load == 3 else "OUTPUT_CODES"
                kernel = tile.kernel(conv2d.VECTORS[load], unsigned, output, epilogue)
            elif isinstance(tile, conv2d.Dp4aDirectTile):
                kernel = tile.kernel(conv2d.VECTORS[load], unsigned, epilogue)
            elif isinstance(tile, conv2d_stem.StemTile):
                in_c = load + 1
                vec = in_c if in_c in (2, 4) else 1
                kernel = tile.kernel(in_c, vec, unsigned, epilogue, dynamic_shared_bytes=conv2d_stem.SHARED_BYTES)
            else:
                most = tile.most_terms if isinstance(tile, depthwise.RowsTile) else depthwise.MOST_TERMS
                kernel = tile.kernel((4, 1)[load % 2], min(1 + load, most), epilogue)
            found[f"{kernel.name}-{rule}-{'uint8' if unsigned else 'int8'}-{load}{'-clamp' * clamps}"] = kernel
    for row, tile in enumerate(tiles):
        for number, fused in enumerate(FUSED):
            if everything or row % 2 == number:
                more = (
                    {"dynamic_shared_bytes": conv2d_stem.SHARED_BYTES} if isinstance(tile, conv2d_stem.StemTile) else {}
                )
                found[f"{tile.name}-fused{number}"] = tile.kernel(epilogue=epilogue_defines() + fused, **more)
    return found


VARIANTS = variants(EVERYTHING)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS if EVERYTHING else (90,))
@pytest.mark.parametrize("name", VARIANTS)
def test_no_variant_spills(name: str, arch: int) -> None:
    require_tools()
    assert report(VARIANTS[name], arch).problems == ()


@pytest.mark.parametrize("arch", [80, 90])
def test_dp4a_in_the_main_loop(arch: int) -> None:
    """The largest tile's and the smallest's; of the smallest the loop is a whole tile of K."""
    require_tools()
    for tile, share in ((conv2d.IGEMM_TILES[0], 0.80), (conv2d.IGEMM_TILES[-1], 0.65), (conv2d_stem.TILES[0], 0.70)):
        loop = report(tile.kernel(), arch).loop
        assert loop is not None
        assert loop.opcodes["IDP.4A.S8.S8"] == loop.multiplies
        assert loop.share >= share, (tile.name, loop)


@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("tile", [*conv2d.IGEMM_TILES, *conv2d_stem.TILES], ids=lambda tile: tile.name)
def test_cost_of_an_output(tile: conv2d.Dp4aIgemmTile | conv2d_stem.StemTile, arch: int) -> None:
    require_tools()
    outputs = report(tile.kernel(), arch).outputs
    assert outputs is not None
    assert outputs.where == "after loop"
    assert outputs.per_byte <= 12


@pytest.mark.parametrize("arch", [75, 80, 90])
@pytest.mark.parametrize("tile", conv2d.IGEMM_TILES, ids=lambda tile: tile.name)
def test_loads_of_16_bytes(tile: conv2d.Dp4aIgemmTile, arch: int, tmp_path: Path) -> None:
    """Channels in multiples of 16 are read 16 bytes at a time, past the registers from sm_80 on."""
    require_tools()
    kernel = tile.kernel()
    path = tmp_path / "kernel.cubin"
    path.write_bytes(nvrtc_cubin(kernel, arch, program_of(kernel, arch))[0])
    code = sass_report.disassemble(path, kernel.entry)
    opcode = "LDG" if arch < 80 else "LDGSTS"
    assert sum(each.mnemonic == opcode and "128" in each.opcode.split(".") for each in code) >= 2
