"""Launch a kernel: place arguments, run its blocks group after group, report."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ptx.async_groups import AsyncGroups
from ptx.execution import Execution
from ptx.failures import LaunchError
from ptx.geometry import Extent, Geometry
from ptx.global_memory import GlobalAccess, GlobalMemory
from ptx.local_memory import LocalMemory
from ptx.machine import Machine
from ptx.ordering import Ordering
from ptx.program import Program, compile_program
from ptx.report import Report, find_loops
from ptx.shared_memory import SharedMemory
from ptx.statistics import Statistics
from ptx.syntax import Kernel, Parameter, Variable
from ptx.warpgroup_products import WarpgroupProducts

#: Threads that execute together: enough to spread NumPy's cost per call, few enough for the caches.
_GROUP_THREADS = 2048

Argument = np.ndarray | np.generic | int | float | bytes


def run_kernel(
    ptx: str,
    name: str,
    grid: int | Sequence[int],
    block: int | Sequence[int],
    arguments: Sequence[Argument],
    shared_bytes: int = 0,
) -> Report:
    """Execute a kernel instruction by instruction, with every check.

    Args:
        ptx: text of a PTX module.
        name: kernel in it.
        grid, block: numbers of blocks and of threads, one to three of each, x first.
        arguments: one per parameter. Arrays are global buffers, changed in place; one that is not
            writable must not be written. Numbers go into parameters by value, 0 for a null
            pointer; bytes fill a parameter that is a structure.
        shared_bytes: dynamic shared memory of each block.
    Returns:
        What was executed.
    Raises:
        KernelFailure: a check failed; its `kind` tells which.
        UnsupportedPtx: PTX that the emulator does not know.
        LaunchError: the arguments or the block do not fit the kernel.
    """
    program = compile_program(ptx, name)
    kernel = program.kernel
    whole_grid, whole_block = _extent(grid), _extent(block)
    threads = whole_block[0] * whole_block[1] * whole_block[2]
    limit = kernel.max_threads or 1024
    if not 0 < threads <= limit:
        raise LaunchError(f"{name}: {threads} threads in a block, at most {limit} are allowed")
    memory = GlobalMemory()
    symbols, shared_size = _place_shared(kernel.shared, shared_bytes)
    local_symbols, local_size = _place(kernel.local, 0)
    symbols |= local_symbols | _place_module_variables(kernel, memory)
    symbols["%dynamic_smem_size"] = shared_bytes
    parameters = _parameter_memory(kernel, arguments, memory, symbols)
    statistics = Statistics(len(kernel.instructions))
    num_blocks = whole_grid[0] * whole_grid[1] * whole_grid[2]
    per_group = max(1, _GROUP_THREADS // threads)
    with np.errstate(all="ignore"):
        for first_block in range(0, num_blocks, per_group):
            geometry = Geometry(
                grid=whole_grid,
                block=whole_block,
                first_block=first_block,
                num_blocks=min(per_group, num_blocks - first_block),
            )
            machine = _machine(
                program, geometry, memory, parameters, symbols, shared_size, local_size, statistics
            )
            Execution(program, machine).run()
    return Report(
        instructions=kernel.instructions,
        issued=statistics.issued,
        found_wavefronts=statistics.wavefronts,
        least_wavefronts=statistics.least_wavefronts,
        loops=find_loops(kernel.instructions),
    )


def _extent(value: int | Sequence[int]) -> Extent:
    values = (value,) if isinstance(value, int | np.integer) else tuple(value)
    x, y, z = (*values, 1, 1, 1)[:3]
    if len(values) > 3 or min(x, y, z) < 1:
        raise LaunchError(f"grid or block {value}: one to three positive numbers are needed")
    return int(x), int(y), int(z)


def _machine(
    program: Program,
    geometry: Geometry,
    memory: GlobalMemory,
    parameters: np.ndarray,
    symbols: dict[str, int],
    shared_size: int,
    local_size: int,
    statistics: Statistics,
) -> Machine:
    ordering = Ordering(geometry)
    shared = SharedMemory(shared_size, program.granule, geometry, ordering)
    never = np.ones(geometry.num_threads, bool)
    num_registers = program.kernel.num_registers
    return Machine(
        geometry=geometry,
        ordering=ordering,
        registers=[None] * num_registers,
        undefined=dict.fromkeys(range(num_registers), never),
        carry=np.zeros(geometry.num_threads, bool),
        parameters=parameters,
        symbols=symbols,
        global_memory=GlobalAccess(memory, geometry, ordering),
        shared=shared,
        local=LocalMemory(local_size, geometry.num_threads),
        async_groups=AsyncGroups(geometry.num_threads, shared),
        products=WarpgroupProducts(geometry, shared),
        statistics=statistics,
    )


def _place(variables: Sequence[Variable], start: int) -> tuple[dict[str, int], int]:
    """Addresses of variables one after the other, and the end of the last one."""
    addresses = {}
    for variable in variables:
        start = -(-start // variable.alignment) * variable.alignment
        addresses[variable.name] = start
        start += variable.size or 0
    return addresses, start


def _place_shared(variables: Sequence[Variable], shared_bytes: int) -> tuple[dict[str, int], int]:
    """Static variables first; all dynamic ones share what follows."""
    addresses, end = _place([v for v in variables if v.size is not None], 0)
    dynamic = [v for v in variables if v.size is None]
    alignment = max((v.alignment for v in dynamic), default=1)
    start = -(-end // alignment) * alignment
    addresses |= {variable.name: start for variable in dynamic}
    return addresses, start + shared_bytes if shared_bytes else end


def _place_module_variables(kernel: Kernel, memory: GlobalMemory) -> dict[str, int]:
    """Global variables, anew for each launch, and constants, which no kernel may write."""
    addresses = {}
    for variable in (*kernel.globals, *kernel.constants):
        data = (variable.initial or b"").ljust(variable.size or 0, b"\0")
        array = np.frombuffer(bytearray(data), np.uint8)
        array.setflags(write=variable in kernel.globals)
        addresses[variable.name] = memory.add(array, name=variable.name)
    return addresses


def _parameter_memory(
    kernel: Kernel,
    arguments: Sequence[Argument],
    memory: GlobalMemory,
    symbols: dict[str, int],
) -> np.ndarray:
    if len(arguments) != len(kernel.parameters):
        names = ", ".join(parameter.name for parameter in kernel.parameters)
        raise LaunchError(
            f"{kernel.name}: {len(arguments)} arguments, needed {len(kernel.parameters)}: {names}"
        )
    size = max((p.offset + p.size for p in kernel.parameters), default=0)
    raw = np.zeros(size, np.uint8)
    for parameter, argument in zip(kernel.parameters, arguments, strict=True):
        data = _argument_bytes(parameter, argument, memory)
        raw[parameter.offset : parameter.offset + parameter.size] = np.frombuffer(data, np.uint8)
        symbols[parameter.name] = parameter.offset
    return raw


def _argument_bytes(parameter: Parameter, argument: Argument, memory: GlobalMemory) -> bytes:
    """An argument as it lies in parameter memory."""
    if isinstance(argument, np.ndarray):
        if parameter.size != 8:
            raise LaunchError(f"{parameter.name}: an array needs a parameter of 8 bytes")
        data = np.uint64(memory.add(argument, name=parameter.name)).tobytes()
    elif isinstance(argument, bytes | np.generic):
        data = bytes(argument) if isinstance(argument, bytes) else argument.tobytes()
    else:
        kind = parameter.type
        is_float = isinstance(argument, float)
        dtype = np.dtype(f"f{kind.num_bytes}") if is_float else kind.dtype
        if kind.dtype.kind == "u" and not is_float and argument < 0:
            dtype = np.dtype(f"i{kind.num_bytes}")
        data = np.asarray(argument, dtype).tobytes()
    if len(data) != parameter.size:
        raise LaunchError(
            f"{parameter.name}: argument of {len(data)} bytes, needed {parameter.size}"
        )
    return data
