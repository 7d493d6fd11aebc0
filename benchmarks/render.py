"""Speed, memory and compilation of the forward model, as ratios measured in one run.

Command: ``python benchmarks/render.py [--full] [--only NAME ...] [--slab SIDE]``. Every measurement
runs in a process of its own, so that its peak memory is its own (compiler included). Rates are
sub-layer voxels per second per channel; *copy* reads and writes as many bytes once, the least
that any pass over the volume must do. Tables: ``plain`` (the recurrence alone against a copy and
a windowed depth sum), ``volume``, ``channels``, ``voltage`` (growth), ``compile`` (cold and warm),
``montecarlo``. Times are the least of several; nothing is asserted.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time

SUBLAYERS, BELOW = 3, 6
TABLES = ("plain", "volume", "channels", "voltage", "compile", "montecarlo")


def least_seconds(function, *args, repeats: int = 4) -> float:
    """Least wall time of a call whose result is waited for; the first call is not counted."""
    import jax

    jax.block_until_ready(function(*args))
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(function(*args))
        times.append(time.perf_counter() - started)
    return min(times)


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def model(side: int, slices: int, kev, kind: str = "waves"):
    """Instrument, specimen and call of the whole model."""
    import jax

    from fibsim import expected_stack, make_instrument
    from fibsim.specimens import make

    instrument = make_instrument(beam_kev=kev)
    specimen = make(
        kind,
        key=jax.random.key(0),
        shape=((slices + BELOW) * SUBLAYERS, side, side),
        voxel_nm=(10.0 / SUBLAYERS, 4.0, 4.0),
        ligament_nm=35.0,
    )

    def forward(i, s):
        return expected_stack(s, i, num_slices=slices, sublayers=SUBLAYERS, below_slices=BELOW)

    return instrument, specimen, forward


def measure_model(side: int, slices: int, kev: list, gradient: bool) -> dict:
    """Times of copy and model, peak memory, and the time of the first call."""
    import jax
    import jax.numpy as jnp

    instrument, specimen, forward = model(side, slices, kev)
    volume = jnp.broadcast_to(specimen.solid, (len(kev), *specimen.solid.shape)) + 0.0
    copy = least_seconds(jax.jit(lambda v: v + 1.0), volume)
    del volume
    function = jax.jit(forward)
    if gradient:

        def loss(i, s):
            return jnp.sum(forward(i, s) ** 2)

        function = jax.jit(jax.grad(loss, argnums=(0, 1), allow_int=True))
    started = time.perf_counter()
    program = function.lower(instrument, specimen).compile()
    compiling = time.perf_counter() - started
    # XLA's own account: the peak of a process holds what the compiler took, which hides the rest.
    memory = program.memory_analysis()
    seconds = least_seconds(program, instrument, specimen, repeats=3)
    return dict(
        copy=copy,
        seconds=seconds,
        compiling=compiling,
        rate=len(kev) * specimen.solid.size / seconds / 1e6,
        extra_mb=(memory.temp_size_in_bytes + memory.output_size_in_bytes) / 2**20,
        peak_mb=peak_mb(),
        volume_mb=specimen.solid.nbytes / 2**20,
    )


def measure_plain(side: int, layers: int, depth: int) -> dict:
    """``I_k = e rho_k + exp(-mu rho_k) I_{k+1}`` against a copy and against a sum over a window."""
    import jax
    import jax.numpy as jnp

    rho = jax.random.uniform(jax.random.key(0), (layers, side, side))

    def recurrence(rho, e, mu):
        def lay(image, rho):
            image = e * rho + jnp.exp(-mu * rho) * image
            return image, image

        return jax.lax.scan(lay, jnp.zeros_like(rho[0]), rho, reverse=True)[1]

    def window(rho, e, mu):
        padded = jnp.concatenate([rho, jnp.zeros((depth, side, side))])
        total, above = jnp.zeros_like(rho), jnp.zeros_like(rho)
        for d in range(depth):
            here = padded[d : d + layers]
            total = total + e * here * jnp.exp(-mu * above)
            above = above + here
        return total

    e, mu = jnp.asarray(0.3), jnp.asarray(0.5)
    found = dict(copy=least_seconds(jax.jit(lambda v: v + 1.0), rho))
    for name, function in (("recurrence", recurrence), ("window", window)):
        found[name] = least_seconds(jax.jit(function), rho, e, mu)
        loss = jax.jit(jax.grad(lambda *a, f=function: jnp.sum(f(*a) ** 2), argnums=(0, 1, 2)))
        found[name + " gradient"] = least_seconds(loss, rho, e, mu, repeats=2)
    found["rate"] = rho.size / found["recurrence"] / 1e6
    return found


def measure_montecarlo(side: int, kev: float, electrons: int) -> dict:
    """One face by Monte Carlo against all faces of the model, per pixel."""
    import jax
    import numpy as np

    from fibsim.materials import composition
    from fibsim.montecarlo import image_yields

    instrument, specimen, forward = model(side, 16, [kev])
    seconds = least_seconds(forward, instrument, specimen)
    phases = (np.asarray(specimen.solid) > 0.5).astype(np.uint8)

    def image(seed):
        return image_yields(
            phases,
            (None, composition("Au")),
            voxel_nm=specimen.voxel_nm,
            beam_kev=kev,
            faces_nm=[0.0],
            pixel_nm=4.0,
            electrons=electrons,
            key=jax.random.key(seed),
            tilt_deg=38.0,
        ).mean

    image(0)
    started = time.perf_counter()
    image(1)
    slow = (time.perf_counter() - started) / side**2
    return dict(model=seconds / (16 * side**2), montecarlo=slow)


def measure_slabs(side: int, slab_slices: int, kev: list) -> dict:
    """A cube of bytes on disk, of which every slice is two layers, rendered slab by slab."""
    import numpy as np

    from fibsim import expected_slabs, make_instrument

    instrument = make_instrument(beam_kev=kev, pixel_nm=4.0, slice_nm=8.0)
    slices = side // 2
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "volume.dat")
        volume = np.memmap(path, np.uint8, "w+", shape=(side, side, side))
        block = np.random.default_rng(0).integers(0, 2, (side // 16,) * 2, np.uint8)
        for z in range(side):
            turned = np.roll(block, (z // 16) * 3, axis=(z // 16) % 2)
            volume[z] = 255 * np.repeat(np.repeat(turned, 16, 0), 16, 1)
        volume.flush()
        del volume
        volume = np.memmap(path, np.uint8, "r", shape=(side, side, side))
        started, total = time.perf_counter(), 0
        options = dict(voxel_nm=4.0, num_slices=slices - 4, sublayers=2, below_slices=4)
        slabs = expected_slabs(volume, instrument, slab_slices=slab_slices, **options)
        for slab in slabs:
            total += slab.images.shape[1]
        seconds = time.perf_counter() - started
    return dict(
        seconds=seconds,
        slices=total,
        peak_mb=peak_mb(),
        volume_mb=4 * side**3 / 2**20,
        rate=len(kev) * side**3 / seconds / 1e6,
    )


def apart(name: str, cache: str = "", **arguments) -> dict:
    """Run one measurement in a process of its own."""
    request = json.dumps(dict(name=name, cache=cache, arguments=arguments))
    done = subprocess.run(
        [sys.executable, __file__, "--one", request], capture_output=True, text=True
    )
    if done.returncode != 0:
        raise SystemExit(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def show_model(label: str, side: int, slices: int, kev: list) -> None:
    f, g = (
        apart("measure_model", side=side, slices=slices, kev=kev, gradient=gradient)
        for gradient in (False, True)
    )
    print(
        f"{label:24s} {f['seconds'] * 1e3:9.0f} {f['rate']:9.1f} {f['seconds'] / f['copy']:8.0f} "
        f"{g['seconds'] / f['seconds']:9.1f} {f['extra_mb'] / f['volume_mb']:9.1f} "
        f"{g['extra_mb'] / f['volume_mb']:9.1f} {g['peak_mb']:9.0f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="sizes up to 512^3; ten minutes")
    parser.add_argument("--only", nargs="+", choices=TABLES, help="tables to print")
    parser.add_argument("--slab", type=int, help="only render a cube of this side slab by slab")
    parser.add_argument("--slab-slices", type=int, default=16)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        request = json.loads(options.one)
        import jax

        if request["cache"]:
            jax.config.update("jax_compilation_cache_dir", request["cache"])
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        print(json.dumps(globals()[request["name"]](**request["arguments"])))
        return
    if options.slab:
        m = apart("measure_slabs", side=options.slab, slab_slices=options.slab_slices, kev=[2.0])
        print(f"{options.slab}^3, {m['slices']} faces, 1 channel, {options.slab_slices} slices a "
              f"slab: {m['seconds']:.0f} s, {m['rate']:.1f} Mvoxel/s, peak {m['peak_mb']:.0f} MB; "
              f"the volume as float32 has {m['volume_mb']:.0f} MB")  # fmt: skip
        return
    tables = options.only or TABLES
    if "plain" in tables:
        m = apart("measure_plain", side=128, layers=256 if options.full else 96, depth=16)
        print(f"plain recurrence, {m['rate']:.0f} Mvoxel/s; times over that of a copy:")
        for name in ("recurrence", "recurrence gradient", "window", "window gradient"):
            print(f"  {name:22s} {m[name] / m['copy']:8.1f}", flush=True)
    head = f"{'whole model':24s} {'ms':>9s} {'Mvox/s/ch':>9s} {'x copy':>8s} {'grad/fwd':>9s} "
    head += f"{'fwd mem':>9s} {'grad mem':>9s} {'peak MB':>9s}"
    head += "   (mem: extra, over the volume's; peak: of the gradient)"
    if {"volume", "channels", "voltage"} & {*tables}:
        print(head)
    if "volume" in tables:
        # The slices below the last face count as voxels: 64 slices of which 58 are imaged.
        for side, slices in ((64, 21), (128, 42), *(((256, 85), (512, 170)) * options.full)):
            show_model(f"{side}^2 x {slices} slices", side, slices - BELOW, [1.0, 2.0, 5.0])
    if "channels" in tables:
        for count in (1, 2, 4, 8) if options.full else (1, 4):
            show_model(f"{count} channels", 128, 18, [1.0 + 0.5 * c for c in range(count)])
    if "voltage" in tables:
        for kev in (1.0, 20.0):
            show_model(f"{kev:g} kV", 128, 18, [kev])
    if "compile" in tables:
        for gradient in (False, True):
            with tempfile.TemporaryDirectory() as cache:
                arguments = dict(side=64, slices=12, kev=[1.0, 2.0, 5.0], gradient=gradient)
                cold, warm = (apart("measure_model", cache, **arguments) for _ in range(2))
            name = "gradient" if gradient else "forward"
            print(f"{name}: compilation {cold['compiling']:.1f} s, with a warm cache "
                  f"{warm['compiling']:.1f} s", flush=True)  # fmt: skip
    if "montecarlo" in tables:
        m = apart("measure_montecarlo", side=64, kev=2.0, electrons=100)
        print(f"Monte Carlo at 100 electrons a pixel: {m['montecarlo'] / m['model']:.0f} times the "
              f"model's time per pixel ({m['montecarlo'] * 1e6:.0f} against "
              f"{m['model'] * 1e6:.3f} µs)")  # fmt: skip


if __name__ == "__main__":
    main()
