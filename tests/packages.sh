# Sourced by demo.sh and run.sh: the Debian 12 packages that varve needs, and getting them.

BUILD_PACKAGES="g++ meson ninja-build pkg-config ccache libfuse3-dev fuse3 libxxhash-dev libzstd-dev librocksdb-dev
  nlohmann-json3-dev libspdlog-dev libfmt-dev libcli11-dev libexpected-dev libboost-filesystem-dev"
DEMO_PACKAGES="e2fsprogs mount util-linux"
TEST_PACKAGES="clang libclang-rt-14-dev llvm libgtest-dev scdoc git python3 attr rsync fio qemu-utils xfsprogs btrfs-progs e2fsprogs mount
  util-linux procps user-mode-linux kmod systemd"

# install_packages NAME...: those that are not there yet, quietly; fails with the names when that cannot be.
install_packages() {
  missing=""
  for package in "$@"; do
    case "$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null)" in
      "install ok installed") ;;
      *) missing="$missing $package" ;;
    esac
  done
  [ -n "$missing" ] || return 0
  if [ "$(id -u)" -ne 0 ]; then
    echo "these packages are missing, and only root can install them:$missing" >&2
    return 1
  fi
  echo "installing:$missing"
  export DEBIAN_FRONTEND=noninteractive
  apt-get -qq update >/dev/null || true
  # shellcheck disable=SC2086
  apt-get -qq install -y --no-install-recommends $missing >/dev/null || {
    echo "apt-get could not install:$missing" >&2
    return 1
  }
}
