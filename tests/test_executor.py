"""gpuq.model.executor: batches, threads, shared memory, and results that belong to the caller."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

import gpuq
from gpuq import DeviceOutOfMemory
from gpuq.cpu import blas
from gpuq.model.executor import POOLED_WORKSPACES, joined
from gpuq.model.placement import ALIGNMENT
from gpuq.resources import resource

from .compare import assert_equal_bits
from .memory import leaked_blocks
from .networks import Network, int8, small_network
from .peers.one_operator import TensorDef, constant

DIGITS = resource("examples", "digits", "digits_int8.tflite")


def load(content: bytes) -> gpuq.Model:
    return gpuq.load(content, device="cpu")


def images(count: int, seed: int, shape: tuple[int, ...] = (6, 6, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(-128, 128, (count, *shape)).astype(np.int8)


# ------------------------------------------------------------------------------------------------------ batches


@pytest.mark.parametrize("count", [1, 2, 3, 17])
def test_batch_is_as_many_runs(count: int, seed: int) -> None:
    model, x = load(small_network()), images(count, seed)
    single = np.concatenate([model(x[i : i + 1]) for i in range(count)])
    assert_equal_bits(model(x), single, f"batch {count}, seed {seed}")


def test_batch_of_a_real_network(seed: int) -> None:
    model, x = load(DIGITS.read_bytes()), images(23, seed, (8, 8, 1))
    single = np.concatenate([model(x[i : i + 1]) for i in range(23)])
    assert_equal_bits(model(x), single, f"digits, seed {seed}")
    assert len({row.tobytes() for row in single}) > 3, "the examples must not all look alike"


def test_files_of_batch_2(seed: int) -> None:
    """A file that says batch 2 takes 2 N: pairs of images are one run."""
    pairs, one = load(small_network(batch=2)), load(small_network())
    x = images(6, seed)
    assert_equal_bits(pairs(x), one(x), f"seed {seed}")
    with pytest.raises(gpuq.InputValueError, match="2Nx6x6x3"):
        pairs(x[:5])


def test_operators_over_the_batch_dimension_stay_within_a_run() -> None:
    """MEAN over dimension 0 of a file with batch 2 takes the mean of each pair, never of the whole batch."""
    net = Network()
    x = net.tensor(int8((2, 3), 1.0))
    mean = net.operator(
        "MEAN", [x, net.tensor(constant([0]))], int8((1, 3), 1.0), schema.ReducerOptionsT(keepDims=True)
    )
    model = load(net.build([x], [mean]))
    codes = np.array([[2, 4, 6], [4, 6, 8], [10, 20, 30], [30, 40, 50]], np.int8)
    assert model(codes).tolist() == [[3, 5, 7], [20, 30, 40]]


def test_scalars_and_constants_of_a_batch() -> None:
    """Outputs without a batch dimension of their own: one value per run, whatever their rank."""
    net = Network()
    x = net.tensor(int8((1,), 1.0))
    index = net.operator(
        "ARG_MAX", [x, net.tensor(constant(0))], TensorDef((), np.int32), schema.ArgMaxOptionsT(outputType=2)
    )
    fixed = net.tensor(int8((2,), 1.0, data=np.array([7, 8], np.int8)))
    content = net.build([x], [x, index, fixed])
    got = load(content)(np.arange(5, dtype=np.int8))
    assert [part.tolist() for part in got] == [[0, 1, 2, 3, 4], [0] * 5, [7, 8] * 5]


def test_eight_threads_calling_one_model(seed: int) -> None:
    model = load(DIGITS.read_bytes())
    batches = [images(1 + number % 5, seed + number, (8, 8, 1)) for number in range(40)]
    want = [model(x) for x in batches]
    start = threading.Barrier(8)

    def work(first: int) -> list[np.ndarray]:
        start.wait()
        return [model(batches[(first + number) % 40]) for number in range(40)]

    with ThreadPoolExecutor(8) as pool:
        for first, got in enumerate(pool.map(work, range(8))):
            for number, result in enumerate(got):
                index = (first + number) % 40
                assert_equal_bits(result, want[index], f"thread {first}, batch {index}, seed {seed}")


def test_workspaces_are_kept_but_not_without_end(seed: int) -> None:
    model = load(small_network())
    for count in range(1, 12):
        model(images(count, seed))
    assert len(model._executor._pool) <= POOLED_WORKSPACES


# ------------------------------------------------------------------------------------------------ shared memory


def two_outputs() -> bytes:
    """The input, a view of it, an intermediate result, and what follows from it: all are outputs."""
    net = Network()
    x = net.tensor(int8((1, 4), 1.0))
    view = net.operator("RESHAPE", [x, net.tensor(constant([2, 2]))], int8((2, 2), 1.0), schema.ReshapeOptionsT())
    relu = net.operator("RELU", [x], int8((1, 4), 1.0))
    flat = net.operator("RESHAPE", [relu, net.tensor(constant([4]))], int8((4,), 1.0), schema.ReshapeOptionsT())
    total = net.operator("ADD", [relu, x], int8((1, 4), 1.0), schema.AddOptionsT())
    fixed = net.tensor(int8((1, 2), 1.0, data=np.array([[7, 8]], np.int8)))
    return net.build([x], [x, view, relu, flat, total, fixed, relu])


def test_outputs_of_every_kind() -> None:
    codes = np.array([[-1, 2, -3, 4], [5, -6, 7, -8]], np.int8)
    x, view, relu, flat, total, fixed, again = load(two_outputs())(codes)
    assert x.tolist() == codes.tolist()
    assert view.tolist() == [[-1, 2], [-3, 4], [5, -6], [7, -8]]
    assert relu.tolist() == again.tolist() == [[0, 2, 0, 4], [5, 0, 7, 0]]
    assert flat.tolist() == [0, 2, 0, 4, 5, 0, 7, 0]
    assert total.tolist() == [[-1, 4, -3, 8], [10, -6, 14, -8]]
    assert fixed.tolist() == [[7, 8], [7, 8]]


@pytest.mark.parametrize("count", [1, 2])
def test_results_belong_to_the_caller(count: int) -> None:
    """Writing to a result changes neither the model nor another result, and a later call changes no earlier result."""
    model = load(two_outputs())
    codes = np.arange(4 * count, dtype=np.int8).reshape(count, 4)
    first = model(codes)
    kept = [result.copy() for result in first]
    model(codes + np.int8(1))
    for number, (result, copy) in enumerate(zip(first, kept, strict=True)):
        assert_equal_bits(result, copy, f"output {number} after another call")
        assert result.flags.writeable, f"output {number}"
        assert not any(np.shares_memory(result, other) for other in first[:number])
        assert not np.shares_memory(result, codes)
        result[...] = 99
    for number, (result, copy) in enumerate(zip(model(codes), kept, strict=True)):
        assert_equal_bits(result, copy, f"output {number} after writing to the first result")


def test_tensors_give_every_computed_value(seed: int) -> None:
    model, x = load(small_network()), images(3, seed)
    seen = model.tensors(x)
    assert set(seen) == {index for node in model.graph.nodes for index in node.outputs}
    assert_equal_bits(seen[model.graph.outputs[0]], model(x), f"seed {seed}")
    for node in model.graph.nodes:
        assert seen[node.outputs[0]].shape[0] == 3
    # The view has the bytes of what it views, although later steps reuse its memory.
    added, flat = model.graph.nodes[2].outputs[0], model.graph.nodes[3].outputs[0]
    assert_equal_bits(seen[flat], seen[added].reshape(3, 36), f"seed {seed}")


def test_looking_changes_nothing(seed: int) -> None:
    model, x = load(small_network()), images(4, seed)
    want = model(x)
    before = model.tensors(x)
    assert_equal_bits(model(x), want, f"after looking, seed {seed}")
    for index, value in model.tensors(x).items():
        assert_equal_bits(value, before[index], f"tensor {index}, looked at twice, seed {seed}")


def test_tensors_of_views_of_state_and_of_inputs() -> None:
    net = Network()
    x = net.tensor(int8((1, 4), 1.0))
    state = net.tensor(int8((1, 4), 1.0, 3), is_variable=True)
    shape = net.tensor(constant([4, 1]))
    of_input = net.operator("RESHAPE", [x, shape], int8((4, 1), 1.0), schema.ReshapeOptionsT())
    of_state = net.operator("RESHAPE", [state, shape], int8((4, 1), 1.0, 3), schema.ReshapeOptionsT())
    total = net.operator("ADD", [of_input, of_state], int8((4, 1), 1.0), schema.AddOptionsT())
    seen = load(net.build([x], [total])).tensors(np.array([[1, 2, 3, 4]], np.int8))
    assert set(seen) == {of_input, of_state, total}
    assert seen[of_input].tolist() == seen[total].tolist() == [[1], [2], [3], [4]]
    assert seen[of_state].tolist() == [[3]] * 4


# ------------------------------------------------------------------------------------------------------- memory


def test_a_batch_that_does_not_fit_is_computed_in_parts(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    model, x = load(small_network()), images(11, seed)
    want = load(small_network())(x)
    real = np.empty
    needs = model.program.arena_bytes * 3 + model.program.workspace_bytes(3) + ALIGNMENT

    def scarce(shape: int, dtype: type) -> np.ndarray:
        if dtype is np.uint8 and shape > needs:
            raise MemoryError
        return real(shape, dtype)

    with monkeypatch.context() as patch:
        patch.setattr("gpuq.model.workspace.np.empty", scarce)
        assert_equal_bits(model(x), want, f"seed {seed}")
        assert model.largest_batch == 3, "11 does not fit, 6 does not, 3 does"
        needs = 0
        with pytest.raises(DeviceOutOfMemory, match="a batch of 1 needs .* bytes, more than there are"):
            load(small_network())(x[:4])
        assert_equal_bits(model(x), want, "with the workspace that is there already")


@pytest.mark.parametrize("fitting", [1, 2, 5, 100])
def test_memory_limit(fitting: int, seed: int) -> None:
    free = load(small_network())
    program, x = free.program, images(11, seed)
    assert free.largest_batch is None
    limit = program.constant_bytes + program.arena_bytes * fitting + program.workspace_bytes(fitting)
    model = gpuq.load(small_network(), device="cpu", memory_limit=limit)
    assert model.largest_batch == fitting
    assert_equal_bits(model(x), free(x), f"seed {seed}")
    for index, value in free.tensors(x).items():
        assert_equal_bits(model.tensors(x)[index], value, f"tensor {index} in parts, seed {seed}")
    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(model, [x] * 8):
            assert_equal_bits(got, free(x), f"taking turns, seed {seed}")
    assert len(model._executor._pool) == 1, "more than one workspace would exceed the limit"
    if fitting == 1:
        with pytest.raises(DeviceOutOfMemory, match=f"one run needs {limit} bytes; the limit is {limit - 1}"):
            gpuq.load(small_network(), device="cpu", memory_limit=limit - 1)


def test_run_batches_in_order(seed: int) -> None:
    model = load(small_network())
    batches = [images(1 + number % 3, seed + number) for number in range(9)]
    kinds = [x if number % 3 == 0 else (x,) if number % 3 == 1 else {"x": x} for number, x in enumerate(batches)]
    name = model.get_input_details()[0]["name"]
    kinds = [{name: kind["x"]} if isinstance(kind, dict) else kind for kind in kinds]
    for number, got in enumerate(model.run_batches(kinds)):
        assert_equal_bits(got, model(batches[number]), f"batch {number}, seed {seed}")
    assert list(model.run_batches([])) == []
    with pytest.raises(gpuq.InputTypeError, match="expected int8, got float32"):
        list(model.run_batches([batches[0], batches[0].astype(np.float32)]))


def test_calls_leave_nothing_behind(seed: int) -> None:
    model, x = load(small_network()), images(2, seed)
    assert leaked_blocks(lambda: model(x)) < 50


def test_state_is_reset_for_every_call() -> None:
    """A variable starts at its zero point for int8, at 0 for other types, as the runtimes reset it."""
    net = Network()
    x = net.tensor(int8((1, 4), 1.0))
    state = net.tensor(int8((1, 4), 1.0, -7), is_variable=True)
    out = net.operator("ADD", [x, state], int8((1, 4), 1.0), schema.AddOptionsT())
    model = load(net.build([x], [out, state]))
    total, kept = model(np.array([[1, 2, 3, 4]], np.int8))
    assert total.tolist() == [[1, 2, 3, 4]]
    assert kept.tolist() == [[-7] * 4]
    for workspace in model._executor._pool:
        workspace.view(state)[...] = 9  # what an operator that writes state would leave behind
    assert model(np.array([[1, 2, 3, 4]], np.int8))[1].tolist() == [[-7] * 4]


def test_joined() -> None:
    assert joined(np.zeros((3, 2, 4))).shape == (6, 4)
    assert joined(np.zeros((3, 1))).shape == (3,)
    assert joined(np.zeros(3)).shape == (3,)


def test_blas_gets_its_threads_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted over callers: the setting of the process returns when the last one leaves, also after an error."""
    calls: list[str] = []

    class Limiter:
        def restore_original_limits(self) -> None:
            calls.append("restored")

    class Controller:
        def limit(self, **limits: object) -> Limiter:
            calls.append("limited")
            return Limiter()

    monkeypatch.setattr(blas, "_controller", Controller)
    with blas.single_threaded():
        with blas.single_threaded():
            pass
        assert calls == ["limited"]
    assert calls == ["limited", "restored"]
    with pytest.raises(ValueError, match="inside"), blas.single_threaded():
        raise ValueError("inside")
    assert calls == ["limited", "restored"] * 2
