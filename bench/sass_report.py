"""What the compiler made of each kernel: registers, spills, unnamed fma, the main loop, the cost of an output.

    python bench/sass_report.py [--kernel GLOB] [--arch 80 90 90a] [--json] [--check]

Compiles every row of every KERNELS table of gpuq.cuda.* as gpuq does, disassembles the cubin and prints one line per
kernel and architecture; --check ends with status 1 if any of them has a problem (see problems). Needs no GPU: NVRTC
and the wheels nvidia-cuda-nvdisasm and nvidia-cuda-cuobjdump, or both tools on the PATH.

This file is bench code and not part of gpuq: a user needs no disassembler. The tests import it.

**The main loop.** Basic blocks, dominators, natural loops (a back edge is a branch to a block that dominates it); an
instruction belongs to the innermost loop around it. The main loop is the one that owns most multiply instructions
(IDP and the tensor cores' MMA); where no loop has any, the one that owns most instructions. A call counts as one
instruction, unless it never returns: ptxas writes a far jump so. The targets of an indirect branch are not known, and
the report names it as a problem.

**The cost of an output** needs no mark in the source. Of all paths through the code after the main loop (through the
loop itself, if it writes to global memory; through the whole kernel, if it has no loop) the one counts that writes
most bytes, and of those the one with fewest instructions: the fast way through the guards of a full tile. Stores
under a predicate and under its opposite are never both counted. Inner loops count once, for they write as often as
they run. Instructions divided by the bytes written are instructions per int8 output; a kernel that writes int32 has a
quarter of that per byte.

**Unnamed fma.** A fused multiply-add changes bits against the CPU unless the source says so. FFMA or DFMA in the
machine code is named if the source, or a header that it reaches, has one of the intrinsics in FMA, outside comments,
and the same source compiled to PTX with --fmad=false has one of the instructions that they stand for: a header that
names one for another kernel excuses nobody. Library functions (expf) name nothing: they differ from the CPU's too.
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import importlib
import importlib.metadata
import itertools
import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gpuq.cuda
from gpuq.cuda.compile import ARCHS, Program, nvrtc_cubin, program_of
from gpuq.cuda.kernel import Kernel

INSTRUCTION_BYTES = 16  # sm_70 and newer
REGISTERS_PER_SM = 65536
RESERVED_SHARED_BYTES = 1024  # what CUDA keeps for itself in every block that uses shared memory, sm_90 and newer
MULTIPLY = re.compile(r"IDP|[IQHBO]?G?MMA|UTC\w*MMA")
UNIT = {
    "dp4a": re.compile(r"IDP\.4A"),
    "imma": re.compile(r"IMMA"),
    "mma": re.compile(r"IMMA"),
    "wgmma": re.compile(r"IGMMA"),
}
"""What a word of a kernel's name promises of its main loop."""

FMA = {
    # mnemonic: (intrinsics in the source, instructions in PTX). Division and roots are correctly rounded sequences of
    # fma; written as `/` or sqrtf they name nothing, so that nobody divides by chance. A division of doubles looks at
    # their range by an fma of floats.
    "FFMA": (
        r"\b__(?:fmaf|fdiv|frcp|fsqrt|ddiv)_r[nzud]\b",
        r"\b(?:(?:fma|div|rcp|sqrt)\.r[nzmp](?:\.\w+)*\.f32|div\.r[nzmp]\.f64)\b",
    ),
    "DFMA": (r"\b__(?:fma|ddiv|drcp|dsqrt)_r[nzud]\b", r"\b(?:fma|div|rcp|sqrt)\.r[nzmp](?:\.\w+)*\.f64\b"),
}


@dataclass(frozen=True)
class Instruction:
    predicate: str
    opcode: str
    operands: str

    @property
    def mnemonic(self) -> str:
        return self.opcode.split(".", 1)[0]

    @property
    def ends_block(self) -> bool:
        return self.mnemonic in ("BRA", "JMP", "CALL", "BRX", "JMX", "EXIT", "RET", "KILL")

    @property
    def conditional(self) -> bool:
        # A branch has its condition in front (@P0 BRA x) or among its operands (BRA.U UP0, x).
        return self.predicate not in ("", "@PT") or "," in self.operands

    @property
    def target(self) -> int | None:
        """Where a direct branch or call goes, as an instruction's index; None for everything else."""
        match = re.search(r"(0x[0-9a-f]+)$", self.operands) if self.mnemonic in ("BRA", "JMP", "CALL") else None
        return int(match[1], 16) // INSTRUCTION_BYTES if match else None

    @property
    def stored_bytes(self) -> int:
        """Bytes that one thread writes to global memory."""
        if self.mnemonic not in ("STG", "ST", "RED", "REDG", "ATOM", "ATOMG"):
            return 0
        parts = self.opcode.split(".")
        widths = {"256": 32, "128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}
        return next((width for part, width in widths.items() if part in parts), 4)


@dataclass(frozen=True)
class Loop:
    """The main loop.

    Attributes:
        instructions: in all, without those of loops inside it.
        multiplies: IDP or tensor core instructions among them.
        loads_global_16: 16-byte loads from global memory, cp.async included.
        loads_shared_16: 16-byte loads from shared memory.
        inner_loops: loops inside it; 0 where the compiler unrolled all.
        opcodes: how many of each opcode, most frequent first.
    """

    instructions: int
    multiplies: int
    loads_global_16: int
    loads_shared_16: int
    inner_loops: int
    opcodes: dict[str, int]

    @property
    def share(self) -> float:
        """Multiplies per instruction."""
        return self.multiplies / self.instructions


@dataclass(frozen=True)
class Outputs:
    """The cheapest path that writes most.

    Attributes:
        where: "after loop", "loop" or "kernel".
        bytes: that one thread writes to global memory on it.
    """

    where: str
    instructions: int
    bytes: int

    @property
    def per_byte(self) -> float:
        """Instructions per int8 output."""
        return self.instructions / self.bytes


@dataclass(frozen=True)
class Report:
    """One kernel on one architecture.

    Attributes:
        shared_bytes: static, as the source declares it.
        stack_bytes: local memory of a thread: arrays that are not in registers, and spills.
        spill_store_bytes, spill_load_bytes: the part of the traffic that is spills, as ptxas counts it.
        local_accesses: LDL and STL instructions.
        fma: FFMA, DFMA: how many there are.
        unnamed_fma: how many of them the source does not name.
        warnings: NVRTC's log, without what ptxas reports.
    """

    kernel: str
    arch: str
    registers: int
    shared_bytes: int
    stack_bytes: int
    spill_store_bytes: int
    spill_load_bytes: int
    local_accesses: int
    fma: dict[str, int]
    unnamed_fma: dict[str, int]
    instructions: int
    loop: Loop | None
    outputs: Outputs | None
    indirect_branches: int
    milliseconds: float
    warnings: str
    problems: tuple[str, ...] = ()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernel", default="*", metavar="GLOB", help="kernels to report, for example 'conv2d_*'")
    parser.add_argument("--arch", nargs="+", default=[str(arch) for arch in ARCHS], help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--check", action="store_true", help="status 1 if any kernel has a problem")
    arguments = parser.parse_args(argv)
    kernels = [kernel for kernel in tables() if fnmatch.fnmatchcase(kernel.name, arguments.kernel)]
    if not kernels:
        print(f"no KERNELS table has a kernel {arguments.kernel}", file=sys.stderr)
    reports = report_all(kernels, arguments.arch)
    if arguments.json:
        json.dump([as_json(each) for each in reports], sys.stdout, indent=1)
        print()
    else:
        print_table(reports)
    return int(arguments.check and any(each.problems for each in reports))


def tables() -> list[Kernel]:
    """Every kernel of every KERNELS attribute of the modules of gpuq.cuda, in order of the modules' names."""
    found: dict[Kernel, None] = {}
    for module in pkgutil.iter_modules(gpuq.cuda.__path__, "gpuq.cuda."):
        for kernel in getattr(importlib.import_module(module.name), "KERNELS", ()):
            if not isinstance(kernel, Kernel):
                raise TypeError(f"{module.name}.KERNELS holds {kernel!r}, which is no Kernel")
            found[kernel] = None
    return list(found)


def report_all(kernels: Iterable[Kernel], archs: Iterable[int | str], sources: Path | None = None) -> list[Report]:
    """Reports for every kernel and every architecture that it supports, in threads."""
    cases = [
        (kernel, str(arch))
        for kernel, arch in itertools.product(kernels, tuple(archs))
        if int(re.sub(r"\D", "", str(arch))) >= kernel.min_arch
    ]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(lambda case: report(case[0], case[1], sources), cases))


def report(kernel: Kernel, arch: int | str, sources: Path | None = None, *, with_code: bool = True) -> Report:
    """Compiles a kernel with gpuq's own options, not from the cache, and looks at the result.

    Args:
        with_code: read the machine code, too, which takes five times as long; else the report has no instructions, and
            says what the compiler and the ELF say: registers, memory, spills, warnings.
    """
    program = program_of(kernel, arch, sources)
    start = time.perf_counter()
    # Only the log differs: ptxas tells spills apart from arrays in local memory, which the cubin does not.
    verbose = dataclasses.replace(program, options=(*program.options, "--ptxas-options=-v"))
    cubin, log = nvrtc_cubin(kernel, arch, verbose)
    milliseconds = 1e3 * (time.perf_counter() - start)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        usage = resource_usage(path, kernel.entry)
        code = disassemble(path, kernel.entry) if with_code else []
    log = log.replace("\0", "")  # ptxas' part ends in one
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", log)
    if not spills:
        raise ValueError(f"{kernel.name}: ptxas reports no spills, not even 0: {log}")
    fma = {name: sum(each.mnemonic.startswith(name) for each in code) for name in FMA}
    shared = usage["SHARED"]
    if int(re.sub(r"\D", "", str(arch))) >= 90 and shared:
        shared -= RESERVED_SHARED_BYTES
    flow = Flow(code) if with_code else None
    found = Report(
        kernel=kernel.name,
        arch=str(arch),
        registers=usage["REG"],
        shared_bytes=shared,
        stack_bytes=max(usage["STACK"], usage["LOCAL"]),
        spill_store_bytes=sum(int(stores) for stores, _ in spills),
        spill_load_bytes=sum(int(loads) for _, loads in spills),
        local_accesses=sum(each.mnemonic in ("LDL", "STL") for each in code),
        fma=fma,
        unnamed_fma={name: count if count and not is_named(name, program) else 0 for name, count in fma.items()},
        instructions=len(code),
        loop=flow.main_loop() if flow else None,
        outputs=flow.outputs() if flow else None,
        indirect_branches=sum(each.mnemonic in ("BRX", "JMX") for each in code),
        milliseconds=milliseconds,
        warnings="\n".join(line for line in log.splitlines() if line.strip() and not line.startswith("ptxas")),
    )
    return dataclasses.replace(found, problems=tuple(problems(kernel, found)))


def problems(kernel: Kernel, found: Report) -> Iterator[str]:
    """What no kernel may have, in words."""
    if found.spill_store_bytes or found.spill_load_bytes:
        yield f"spills: {found.spill_store_bytes} bytes stored, {found.spill_load_bytes} loaded"
    elif found.stack_bytes or found.local_accesses:
        yield f"local memory: {found.stack_bytes} bytes a thread, {found.local_accesses} accesses"
    for name, count in found.unnamed_fma.items():
        if count:
            yield f"{count} {name} that the source does not name"
    x, y, z = kernel.threads
    limit = min(255, REGISTERS_PER_SM // (32 * -(-x * y * z // 32)) // 8 * 8)
    if found.registers > limit:
        yield f"{found.registers} registers: {x * y * z} threads leave {limit}"
    if found.indirect_branches:
        yield f"{found.indirect_branches} indirect branches: the main loop may be another"
    for word, opcode in UNIT.items() if found.instructions else ():
        if word in kernel.name.split("_") and not (found.loop and any(map(opcode.match, found.loop.opcodes))):
            yield f"{word} in its name, no {opcode.pattern} in its main loop"
    if found.warnings:
        yield f"warnings: {found.warnings.splitlines()[0]}"


class Flow:
    """The control flow of one kernel: basic blocks, who dominates whom, loops.

    Attributes:
        blocks: [first, last) instruction of each block, in order; block 0 is the entry.
        successors: blocks that may follow each block.
        loops: blocks of each natural loop, by its header.
    """

    def __init__(self, code: Sequence[Instruction]) -> None:
        self.code = code
        targets = {each.target for each in code if each.target is not None}
        starts = {0} | targets | {index + 1 for index, each in enumerate(code) if each.ends_block}
        self.blocks = list(itertools.pairwise([*sorted(start for start in starts if start < len(code)), len(code)]))
        self.block_at = {first: index for index, (first, _) in enumerate(self.blocks)}
        self.successors = [self._successors(block) for block in range(len(self.blocks))]
        self._resolve_calls()
        self.order = self._reverse_postorder()
        self.dominators = self._dominators()
        self.loops = self._loops()

    def _last(self, block: int) -> Instruction:
        return self.code[self.blocks[block][1] - 1]

    def _successors(self, block: int) -> tuple[int, ...]:
        last = self._last(block)
        following = (block + 1,) if block + 1 < len(self.blocks) else ()
        if not last.ends_block:
            return following  # BSYNC too: the place that it waits for comes next
        target = () if last.target not in self.block_at else (self.block_at[last.target],)
        return tuple(dict.fromkeys(target + (following if last.conditional or last.mnemonic == "CALL" else ())))

    def _resolve_calls(self) -> None:
        """A call that may return goes on behind itself; one that never does is a jump."""
        for block, successors in enumerate(self.successors):
            last = self._last(block)
            if last.mnemonic != "CALL" or last.target not in self.block_at:
                continue
            target = self.block_at[last.target]
            seen, waiting = {target}, [target]
            while waiting:
                new = [each for each in self.successors[waiting.pop()] if each not in seen]
                seen.update(new)
                waiting += new
            if any(self._last(each).mnemonic == "RET" for each in seen):
                self.successors[block] = tuple(each for each in successors if each != target)
            elif not last.conditional:
                self.successors[block] = (target,)

    def _reverse_postorder(self) -> list[int]:
        """The blocks that can be reached, each before those that follow it but for back edges."""
        done: list[int] = []
        seen = {0}
        stack = [(0, iter(self.successors[0]))]
        while stack:
            block, rest = stack[-1]
            for follower in rest:
                if follower not in seen:
                    seen.add(follower)
                    stack.append((follower, iter(self.successors[follower])))
                    break
            else:
                done.append(block)
                stack.pop()
        return done[::-1]

    def _dominators(self) -> dict[int, set[int]]:
        """For each block those that every path to it passes, itself included."""
        everything = set(self.order)
        dominators = dict.fromkeys(self.order, everything) | {0: {0}}
        changed = True
        while changed:
            changed = False
            for block in self.order[1:]:
                before = [dominators[each] for each in self.order if block in self.successors[each]]
                new = set.intersection(*before) | {block}
                if new != dominators[block]:
                    dominators[block], changed = new, True
        return dominators

    def _loops(self) -> dict[int, set[int]]:
        loops: dict[int, set[int]] = {}
        for block in self.order:
            for header in self.successors[block]:
                if header in self.dominators[block]:
                    body = loops.setdefault(header, {header})
                    waiting = [block]
                    while waiting:
                        each = waiting.pop()
                        if each not in body:
                            body.add(each)
                            waiting += [before for before in self.order if each in self.successors[before]]
        return loops

    def _instructions(self, blocks: Collection[int]) -> list[Instruction]:
        return [each for block in sorted(blocks) for each in self.code[slice(*self.blocks[block])]]

    def _own(self, header: int) -> set[int]:
        """The loop's blocks without those of loops inside it."""
        body = self.loops[header]
        return body.difference(*(other for other in self.loops.values() if other < body))

    def _main_header(self) -> int | None:
        def weight(header: int) -> tuple[int, int]:
            own = self._instructions(self._own(header))
            return sum(map(is_multiply, own)), len(own)

        return max(self.loops, key=weight, default=None)

    def main_loop(self) -> Loop | None:
        """The loop that does the work; None where there is none."""
        header = self._main_header()
        if header is None:
            return None
        own = self._instructions(self._own(header))
        return Loop(
            instructions=len(own),
            multiplies=sum(map(is_multiply, own)),
            loads_global_16=sum(each.mnemonic in ("LDG", "LDGSTS") and is_16_bytes(each) for each in own),
            loads_shared_16=sum(each.mnemonic == "LDS" and is_16_bytes(each) for each in own),
            inner_loops=sum(other < self.loops[header] for other in self.loops.values()),
            opcodes=dict(Counter(each.opcode for each in own).most_common()),
        )

    def outputs(self) -> Outputs | None:
        """The cost of what the kernel writes; None where no store is found."""
        header = self._main_header()
        if header is None:
            return self._cheapest("kernel", [0], set(self.order))
        body = self.loops[header]
        exits = {follower for block in body for follower in self.successors[block]} - body
        inside = self._cheapest("loop", [header], body)
        return inside or self._cheapest("after loop", exits, set(self.order) - body)

    def _cheapest(self, where: str, starts: Collection[int], region: set[int]) -> Outputs | None:
        """Of the paths within the region that store most bytes, the one with fewest instructions, to its last store."""
        best = dict.fromkeys(starts, (0, 0))  # (-bytes, instructions) before a block: the smaller the better
        found = (0, 0)
        for block in self.order:
            if block not in best or block not in region:
                continue
            bytes_before, cost = best[block]
            instructions = self._instructions([block])
            for follower, polarity in self._ways_on(block):
                stored, last = stored_bytes(instructions, polarity)
                if stored:  # only a store can end a path
                    found = min(found, (bytes_before - stored, cost + last + 1))
                # Along, never back.
                if follower is not None and follower not in self.dominators[block]:
                    after = bytes_before - stored, cost + len(instructions)
                    best[follower] = min(best.get(follower, (1, 0)), after)
        return Outputs(where, found[1], -found[0]) if found[0] else None

    def _ways_on(self, block: int) -> list[tuple[int | None, bool | None]]:
        """What may follow a block (None: the end), with what its last instruction's predicate then was, if it has one.

        The predicate is given as "the branch was taken".
        """
        last = self._last(block)
        if not last.ends_block or last.predicate in ("", "@PT"):
            return [(each, None) for each in self.successors[block] or (None,)]
        taken = None if last.target is None else self.block_at.get(last.target)
        ways: list[tuple[int | None, bool | None]] = [(taken, True)]
        return ways + [(each, False) for each in self.successors[block] if each != taken]


def stored_bytes(block: Sequence[Instruction], taken: bool | None) -> tuple[int, int]:
    """Bytes that one thread writes to global memory in a block, and the index of the last instruction that does.

    Args:
        taken: whether the conditional branch at the end is taken; None: there is none.
    """
    # Stores under one predicate, by its value: bytes and last index. A register that is set anew is a new predicate.
    groups: dict[tuple[str, int], dict[bool, tuple[int, int]]] = {}
    times_set: Counter[str] = Counter()
    for index, each in enumerate(block):
        register, value = each.predicate.lstrip("@!"), not each.predicate.startswith("@!")
        if each.stored_bytes:
            group = groups.setdefault((register, times_set[register]), {True: (0, -1), False: (0, -1)})
            group[value] = group[value][0] + each.stored_bytes, index
        elif not each.ends_block:
            times_set.update(each.operands.split(",")[:2])  # results stand first
    total, last = 0, -1
    for key, group in groups.items():
        # After the loop above, register and value are those of the branch at the end.
        if taken is not None and key == (register, times_set[register]):
            stored, index = group[value == taken]
        else:
            stored, index = max(group.values())
        total, last = total + stored, max(last, index)
    return total, last


def is_multiply(each: Instruction) -> bool:
    return MULTIPLY.fullmatch(each.mnemonic) is not None


def is_16_bytes(each: Instruction) -> bool:
    return "128" in each.opcode.split(".")


def is_named(name: str, program: Program) -> bool:
    """Whether the source names the fused multiply-adds (FFMA or DFMA) that this variant of it has."""
    intrinsic, instruction = (re.compile(pattern) for pattern in FMA[name])
    return intrinsic.search(reached_text(program)) is not None and instruction.search(ptx(program)) is not None


def reached_text(program: Program) -> str:
    """The source, the headers that it includes, directly or not, and the defines, without comments."""
    headers = dict(program.headers)
    texts = {"": "\n".join(program.options)}
    waiting = [(program.source, program.text)]
    while waiting:
        name, text = waiting.pop()
        if name not in texts:
            texts[name] = re.sub(r"//[^\n]*|/\*.*?\*/", " ", text, flags=re.DOTALL)
            included = re.findall(r'^\s*#\s*include\s+"([^"]+)"', texts[name], flags=re.MULTILINE)
            waiting += [(each, headers[each]) for each in included if each in headers]
    return "\n".join(texts.values())


def ptx(program: Program) -> str:
    """The program as PTX, with contraction off whatever the program's own options say."""
    nvrtc: Any = importlib.import_module("cupy").cuda.nvrtc
    options = [option.replace("-arch=sm_", "-arch=compute_") for option in program.options if "fmad" not in option]
    names = tuple(name.encode() for name, _ in program.headers)
    texts = tuple(text.encode() for _, text in program.headers)
    handle = nvrtc.createProgram(program.text, program.source, texts, names)
    try:
        nvrtc.compileProgram(handle, (*options, "--fmad=false"))
        found = nvrtc.getPTX(handle)
    finally:
        nvrtc.destroyProgram(handle)
    return found.decode() if isinstance(found, bytes) else str(found)


def tool(name: str) -> Path:
    """nvdisasm or cuobjdump: from its wheel, else from the PATH.

    Raises:
        FileNotFoundError: it is in neither.
    """
    try:
        distribution = importlib.metadata.distribution(f"nvidia-cuda-{name}")
        for file in distribution.files or ():
            if file.name == name:
                return Path(str(distribution.locate_file(file)))
    except importlib.metadata.PackageNotFoundError:
        pass
    found = shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"{name} is not installed: pip install nvidia-cuda-{name}")
    return Path(found)


def _run(name: str, *arguments: str | Path) -> str:
    done = subprocess.run([tool(name), *arguments], capture_output=True, text=True, check=False)
    if done.returncode or not done.stdout.strip():
        raise ValueError(f"{name} {' '.join(map(str, arguments))}: {done.stderr.strip() or 'says nothing'}")
    return done.stdout


def resource_usage(cubin: Path, entry: str) -> dict[str, int]:
    """cuobjdump's figures for one function: REG, STACK, SHARED, LOCAL, ..."""
    text = _run("cuobjdump", "-res-usage", cubin)
    match = re.search(rf"Function {re.escape(entry)}:\s*\n\s*(.*)", text)
    if match is None:
        raise ValueError(f"cuobjdump finds no function {entry}: {text}")
    return {name: int(value) for name, value in re.findall(r"([A-Z]+)(?:\[\d+\])?:(\d+)", match[1])}


def disassemble(cubin: Path, entry: str) -> list[Instruction]:
    """One function's instructions, without the NOPs that fill its end."""
    _, functions = json.loads(_run("nvdisasm", "-json", cubin))
    code = next((each for each in functions if each["function-name"] == entry), None)
    if code is None:
        raise ValueError(f"nvdisasm finds no function {entry}")
    instructions = code["sass-instructions"]
    if code["length"] != INSTRUCTION_BYTES * len(instructions):
        raise ValueError(f"nvdisasm: {len(instructions)} instructions in {code['length']} bytes")
    found = [Instruction(each.get("predicate", ""), each["opcode"], each.get("operands", "")) for each in instructions]
    while found and found[-1].opcode == "NOP":
        found.pop()
    return found


def as_json(found: Report) -> dict[str, Any]:
    """The report with its ratios, as plain values."""
    plain = dataclasses.asdict(found)
    if found.loop:
        plain["loop"]["share"] = round(found.loop.share, 4)
    if found.outputs:
        plain["outputs"]["per_byte"] = round(found.outputs.per_byte, 3)
    return plain


def print_table(reports: Iterable[Report]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(caption="ldg/lds 16: 16-byte loads in the main loop; instr/byte: instructions per byte written")
    for name in ("kernel", "arch"):
        table.add_column(name, no_wrap=True)
    columns = ("regs", "shared", "stack", "spill", "fma", "loop", "multiplies", "ldg 16", "lds 16", "instr/byte", "ms")
    for name in columns:
        table.add_column(name, justify="right")
    for each in reports:
        loop, outputs = each.loop, each.outputs
        table.add_row(
            each.kernel,
            each.arch,
            str(each.registers),
            str(each.shared_bytes),
            str(each.stack_bytes),
            f"{each.spill_store_bytes}+{each.spill_load_bytes}",
            f"{sum(each.unnamed_fma.values())}/{sum(each.fma.values())}",
            str(loop.instructions) if loop else "-",
            f"{loop.multiplies} = {loop.share:.0%}" if loop else "-",
            str(loop.loads_global_16) if loop else "-",
            str(loop.loads_shared_16) if loop else "-",
            f"{outputs.instructions}/{outputs.bytes} = {outputs.per_byte:.1f}" if outputs else "-",
            f"{each.milliseconds:.0f}",
        )
    # Into a file or a pipe the lines stay whole.
    console = Console() if sys.stdout.isatty() else Console(width=200)
    console.print(table)
    for each in reports:
        for problem in each.problems:
            console.print(f"{each.kernel} sm_{each.arch}: {problem}", style="red", highlight=False, markup=False)


if __name__ == "__main__":
    sys.exit(main())
