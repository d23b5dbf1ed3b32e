# For scripts in the repository's root, after scripts/setup: PyTorch in the build for CPUs.
torch=2.13.0

# Install it into the environment of the Python $1; what follows goes to pip. On Linux pip by itself takes a build that
# brings gigabytes for GPUs: the other one is in PyTorch's own index, or in one that pip's configuration names.
install_torch() {
  local pip=(.venv/bin/python -m pip --python "$1" install --quiet --disable-pip-version-check --no-input "${@:2}")
  if [ "$(uname -s)" = Linux ]; then
    "${pip[@]}" "torch==$torch+cpu" 2>/dev/null >&2 ||
      "${pip[@]}" --index-url https://download.pytorch.org/whl/cpu "torch==$torch+cpu" >&2
  else
    "${pip[@]}" "torch==$torch" >&2
  fi
}
