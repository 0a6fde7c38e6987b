"""Lets PyPI's torch load on a machine without a GPU and without 2 GB of CUDA libraries. Run by scripts/peers.sh.

PyPI's Linux wheel of torch links cuBLAS, cuDNN, NCCL and more at load time, though nothing on a CPU ever calls them. This
writes, beside libtorch, one small library for each that is missing: it has the right name and symbol versions, and every
function in it returns an error. Nothing in torch's own files is changed; with the real libraries installed nothing is written.

    python cuda_stand_ins.py        # into the torch of the interpreter that runs it; needs g++ and binutils
"""

import importlib.util
import pathlib
import re
import subprocess
import tempfile

CUDA_LIBRARY = re.compile(r"lib(cu|nccl|nvshmem)\w*\.so\.\d+$")
CUDA_SYMBOL = re.compile(r"(cu[A-Zbdfs]|nccl|nvshmem)\w+$")
# Loaded on first use by CUDA code only.
LAZY = {"libtorch_cuda_linalg.so", "libcaffe2_nvrtc.so"}


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main():
    torch_lib = pathlib.Path(importlib.util.find_spec("torch").origin).parent / "lib"
    present = {path.name for path in torch_lib.parents[1].glob("nvidia/**/lib/*.so*")}
    libraries = [path for path in torch_lib.glob("lib*.so*") if path.name not in LAZY and not CUDA_LIBRARY.match(path.name)]
    missing, symbols, defined = set(), set(), set()
    for library in libraries:
        needed = re.findall(r"\(NEEDED\).*\[(.*)\]", output("readelf", "-d", str(library)))
        missing |= {name for name in needed if CUDA_LIBRARY.match(name) and name not in present}
        for line in output("nm", "-D", str(library)).splitlines():
            kind, _, name = line[17:].partition(" ")
            (symbols if kind == "U" else defined).add(name)

    versioned = {}  # library -> its version's name -> functions
    loose = set()
    for symbol in symbols:
        name, _, version = symbol.partition("@")
        library = next((lib for lib in missing if version and lib.startswith((version, f"lib{version.lower()}"))), None)
        if library:
            versioned.setdefault(library, {}).setdefault(version, set()).add(name)
        elif not version and CUDA_SYMBOL.match(name) and name not in defined:
            loose.add(name)  # any library of the process may bring it

    for library in sorted(missing):
        versions = versioned.get(library, {})
        functions = set().union(*versions.values(), loose)
        script = "".join(f"{version} {{ global: {'; '.join(sorted(names))}; }};\n" for version, names in versions.items())
        with tempfile.TemporaryDirectory() as folder:
            source, map_file = pathlib.Path(folder, "stand_in.c"), pathlib.Path(folder, "versions")
            source.write_text("".join(f"int {name}(void) {{ return 999; }}\n" for name in sorted(functions)))
            map_file.write_text(script)
            link = ["-Wl,--version-script=" + str(map_file)] if script else []
            subprocess.run(
                ["g++", "-x", "c", "-shared", "-fPIC", "-nostdlib", "-fno-builtin", "-Wl,-soname," + library, *link]
                + ["-o", str(torch_lib / library), str(source)],
                check=True,
            )
        loose = set()  # once is enough
    print(f"{len(missing)} stand-ins: {' '.join(sorted(missing))}")


if __name__ == "__main__":
    main()
