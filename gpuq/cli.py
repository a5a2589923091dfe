"""The command line: arguments in, one function a command, errors as one line."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence

import gpuq
from gpuq.profiles import PROFILES

INFO = "describe a model: inputs, outputs, operators, memory"
RUN = "run a model over arrays and pictures"
QUANTIZE = "make an integer network of a float one"
DOCTOR = "say what this machine has, what is missing and what mends it"
PROFILE = "time every step of a model"
DEMO = "run the shipped digits network, checked bit by bit and timed"

RUN_DETAILS = """\
inputs:
  INPUT is a .npy file, one array of an archive as FILE.npz:KEY, or a picture
  that Pillow opens. Several are one data set, in their order. An array is a
  batch (N, ...), or one sample without the batch dimension.

pictures:
  They become RGB (grey for inputs with one channel) and are resized to the
  input's height and width with Pillow's BILINEAR filter. Nothing is cropped,
  an orientation in EXIF is not applied. A pixel p (0..255) then becomes

    for a uint8 input    code p
    for an int8 input    code p - 128
    for a float32 input  p / 255

  With --mean or --std (0 and 1 where one is left out) the pixel's real value
  is (p - mean) / std, quantized with the input's own scale. This holds for the
  pixels of uint8 arrays too. "gpuq info MODEL" prints the rule of a model.

Results go to stdout, notes and progress to stderr. Exit code 0: done;
2: refused, and one line on stderr says why.

examples:
  gpuq run mobilenet.tflite cat.jpg dog.jpg --top 5 --labels labels.txt
  gpuq run model.tflite samples.npy --output results.npy --batch 32
  gpuq run siamese.tflite --input left=a.npy --input right=b.npy --json
"""


QUANTIZE_DETAILS = """\
calibration data:
  INPUT is what "gpuq run" takes: a .npy file, FILE.npz:KEY or a picture, for
  the float network's inputs; pictures become p / 255, or (p - mean) / std.
  Mode dynamic-range needs none.

modes:
  int8           int8 activations, int8 weights per channel
  uint8          uint8 activations and weights, per tensor (legacy)
  int16x8        int16 activations, int8 weights per channel
  dynamic-range  float activations quantized at run time, int8 weights
  int4-weights   int8 activations, int4 weights per channel

What LiteRT cannot run in codes stays float, with conversions around it.

examples:
  gpuq quantize float.tflite --calibrate images.npy -o int8.tflite
  gpuq quantize float.tflite --calibrate a.jpg b.jpg --mean 127.5 --std 127.5 \\
      --observer mse --input-output uint8 -o int8.tflite
  gpuq quantize float.tflite --calibrate x.npy --sensitivity --keep-int16 3 -o mixed.tflite
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: the arguments; None takes those of the process.

    Returns:
        The exit code: 0; 1 where a check failed; 2 for an error, named in one line on stderr; 130 for Ctrl-C; 141
        where nobody reads stdout any more.

    Raises:
        SystemExit: arguments that argparse refuses (2), --help and --version (0).
    """
    try:
        try:
            return _run(argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # `gpuq ... | head` has seen enough. The interpreter flushes stdout once more on its way out: let it go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        return 130


def _run(argv: Sequence[str] | None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.command(arguments)
        return code
    except BrokenPipeError:
        raise
    except (gpuq.GpuqError, OSError, MemoryError) as error:
        # Importing it only now keeps `gpuq --help` quick.
        from gpuq.commands.output import encodable, printable

        if arguments.traceback:
            traceback.print_exc()
        print(encodable(f"gpuq: error: {printable(_message(error))}", sys.stderr), file=sys.stderr)
        return 2


def _message(error: Exception) -> str:
    """An error in words."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, MemoryError):
        return f"out of memory: {error or 'use a smaller --batch'}"
    return str(error) or type(error).__name__


def _info(arguments: argparse.Namespace) -> int:
    from gpuq.commands.info import run_info

    return run_info(
        arguments.model,
        device=arguments.device,
        profile=arguments.numerics,
        steps=arguments.steps,
        as_json=arguments.json,
    )


def _run_command(arguments: argparse.Namespace) -> int:
    from gpuq.commands.run import RunOptions, run_run

    return run_run(
        RunOptions(
            model=arguments.model,
            files=arguments.files,
            named=arguments.named,
            output=arguments.output,
            device=arguments.device,
            profile=arguments.numerics,
            batch=arguments.batch,
            top=arguments.top,
            labels=arguments.labels,
            mean=arguments.mean,
            std=arguments.std,
            quantize=arguments.quantize,
            memory_limit=arguments.memory_limit,
            as_json=arguments.json,
        )
    )


def _profile(arguments: argparse.Namespace) -> int:
    from gpuq.commands.profile import ProfileOptions, run_profile

    return run_profile(
        ProfileOptions(
            model=arguments.model,
            device=arguments.device,
            profile=arguments.numerics,
            batch=arguments.batch,
            repeats=arguments.repeats,
            fuse=arguments.fuse,
            plot=arguments.plot,
            as_json=arguments.json,
        )
    )


def _quantize(arguments: argparse.Namespace) -> int:
    from gpuq.commands.quantize import QuantizeOptions, run_quantize

    return run_quantize(
        QuantizeOptions(
            model=arguments.model,
            files=arguments.calibrate,
            named=arguments.named,
            output=arguments.output,
            mode=arguments.mode,
            observer=arguments.observer,
            input_output=arguments.input_output,
            per_tensor=arguments.per_tensor,
            equalize=arguments.equalize,
            bias_correction=arguments.bias_correction,
            sensitivity=arguments.sensitivity,
            keep_int16=arguments.keep_int16,
            device=arguments.device,
            batch=arguments.batch,
            mean=arguments.mean,
            std=arguments.std,
            as_json=arguments.json,
        )
    )


def _doctor(arguments: argparse.Namespace) -> int:
    from gpuq.commands.doctor import run_doctor

    return run_doctor(as_json=arguments.json)


def _demo(arguments: argparse.Namespace) -> int:
    from gpuq.commands.demo import run_demo

    return run_demo(device=arguments.device, profile=arguments.numerics, as_json=arguments.json)


def _size(text: str) -> int:
    """Bytes from text such as 4096, 500M or 2G."""
    units = {"K": 10, "M": 20, "G": 30}
    number, shift = (text[:-1], units[text[-1]]) if text[-1:] in units else (text, 0)
    try:
        size = int(float(number) * (1 << shift))
    except (ValueError, OverflowError):
        size = 0
    if size < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number of bytes, perhaps with K, M or G behind it")
    return size


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gpuq",
        description="Runs integer-quantized .tflite networks with exactly the bits of the runtime they ship on.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"gpuq {gpuq.__version__}")
    parser.add_argument("--traceback", action="store_true", help="show where an error comes from")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, title="commands")

    everywhere = argparse.ArgumentParser(add_help=False)
    # SUPPRESS: a subcommand that is silent about it must not overrule `gpuq --traceback COMMAND`.
    everywhere.add_argument(
        "--traceback", action="store_true", default=argparse.SUPPRESS, help="show where an error comes from"
    )
    everywhere.add_argument("--json", action="store_true", help="print the result as JSON, and nothing else, on stdout")
    running = argparse.ArgumentParser(add_help=False)
    running.add_argument(
        "--device",
        default="auto",
        metavar="D",
        help="auto (a GPU if one can be used, else the CPU), cpu, cuda or cuda:N",
    )
    running.add_argument(
        "--numerics",
        default="litert_ref",
        metavar="P",
        help=f"the runtime whose bits to give: {', '.join(PROFILES)} (default: litert_ref)",
    )

    info = commands.add_parser("info", parents=[everywhere, running], help=INFO, description=INFO, allow_abbrev=False)
    info.add_argument("model", metavar="MODEL", help="a .tflite file")
    info.add_argument("--steps", action="store_true", help="also print the planned program, step by step")
    info.set_defaults(command=_info)

    run = commands.add_parser(
        "run",
        parents=[everywhere, running],
        help=RUN,
        description=RUN,
        epilog=RUN_DETAILS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    run.add_argument("model", metavar="MODEL", help="a .tflite file")
    run.add_argument("files", metavar="INPUT", nargs="*", help=".npy, FILE.npz:KEY or a picture")
    run.add_argument(
        "--input",
        dest="named",
        metavar="NAME=INPUT",
        action="append",
        default=[],
        help="an input by its name, for models with several; again for more samples of it",
    )
    run.add_argument("--output", metavar="OUT", help="write the outputs to this .npy, or .npz by their names")
    run.add_argument("--batch", type=int, default=8, metavar="N", help="samples per call (default: 8)")
    run.add_argument(
        "--memory-limit", type=_size, metavar="BYTES", help="most memory to use, as 500M or 2G: larger batches in parts"
    )
    run.add_argument("--top", type=int, metavar="K", help="print the K best classes of each sample")
    run.add_argument("--labels", metavar="FILE", help="names of the classes, one a line, for --top")
    run.add_argument("--mean", metavar="M", help="of pixels: one value, or one per channel separated by commas")
    run.add_argument("--std", metavar="S", help="of pixels, likewise")
    run.add_argument(
        "--quantize", action="store_true", help="take arrays of floats and quantize them with the input's own scale"
    )
    run.set_defaults(command=_run_command)

    profile = commands.add_parser(
        "profile", parents=[everywhere, running], help=PROFILE, description=PROFILE, allow_abbrev=False
    )
    profile.add_argument("model", metavar="MODEL", help="a .tflite file")
    profile.add_argument("--batch", type=int, default=1, metavar="N", help="runs at once (default: 1)")
    profile.add_argument("--repeats", type=int, default=20, metavar="R", help="launches to average (default: 20)")
    profile.add_argument(
        "--no-fuse",
        dest="fuse",
        action="store_false",
        help="each operator by itself, also where a GPU could join some",
    )
    profile.add_argument("--plot", metavar="PNG", help="also draw the steps (needs matplotlib)")
    profile.set_defaults(command=_profile)

    quantize = commands.add_parser(
        "quantize",
        parents=[everywhere],
        help=QUANTIZE,
        description=QUANTIZE,
        epilog=QUANTIZE_DETAILS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    quantize.add_argument("model", metavar="FLOAT", help="a float .tflite file")
    quantize.add_argument("--calibrate", metavar="INPUT", nargs="+", default=[], help="calibration data, see below")
    quantize.add_argument(
        "--input",
        dest="named",
        metavar="NAME=INPUT",
        action="append",
        default=[],
        help="calibration data of an input by its name, for models with several",
    )
    quantize.add_argument("-o", "--output", metavar="OUT", required=True, help="the .tflite to write")
    quantize.add_argument("--mode", default="int8", metavar="M", help="see below (default: int8)")
    quantize.add_argument(
        "--observer",
        default="minmax",
        metavar="O",
        help="how ranges are chosen: minmax, moving-average, percentile:P, mse, entropy (default: minmax)",
    )
    quantize.add_argument(
        "--input-output",
        default="float",
        metavar="T",
        help="what the network takes and gives: float, int8, uint8, int16 (default: float)",
    )
    quantize.add_argument("--per-tensor", action="store_true", help="one scale for each weight tensor")
    quantize.add_argument("--equalize", action="store_true", help="equalize the ranges of weights across layers first")
    quantize.add_argument(
        "--bias-correction", action="store_true", help="correct biases for what rounding weights does"
    )
    quantize.add_argument(
        "--sensitivity", action="store_true", help="rank the operators by what quantizing each alone costs"
    )
    quantize.add_argument(
        "--keep-int16", type=int, default=0, metavar="N", help="int16 activations for the N most sensitive operators"
    )
    quantize.add_argument("--batch", type=int, default=32, metavar="B", help="samples per call (default: 32)")
    quantize.add_argument(
        "--device",
        default="auto",
        metavar="D",
        help="what calibration runs on: auto, cpu, cuda, cuda:N, or litert, its interpreter on the CPU (default: auto)",
    )
    quantize.add_argument("--mean", metavar="M", help="of pixels: one value, or one per channel separated by commas")
    quantize.add_argument("--std", metavar="S", help="of pixels, likewise")
    quantize.set_defaults(command=_quantize)

    doctor = commands.add_parser("doctor", parents=[everywhere], help=DOCTOR, description=DOCTOR, allow_abbrev=False)
    doctor.set_defaults(command=_doctor)

    demo = commands.add_parser("demo", parents=[everywhere, running], help=DEMO, description=DEMO, allow_abbrev=False)
    demo.set_defaults(command=_demo)
    return parser
