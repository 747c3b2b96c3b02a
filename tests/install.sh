# Sourced by ci.sh and the scripts beside this file.

# Install packages: install PYTHON OPTION..., where the options are pip's. uv takes a fifth of pip's
# time, but does not read pip's configuration; pip installs where that names the registry.
install() {
    python -m uv pip install --quiet --python "$1" "${@:2}" && return
    echo "uv cannot install these, so pip does" >&2
    python -m pip --python "$1" install --quiet --no-compile "${@:2}"
}
