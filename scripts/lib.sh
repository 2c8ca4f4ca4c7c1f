# Shared by the scripts of this folder; source it, do not run it.
# shellcheck shell=bash

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC2034 # for those who source this
STATE=$ROOT/.skybridge
# shellcheck disable=SC2034
VENV=$ROOT/.venv
export PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

die() {
  say "$*"
  exit 1
}

# Prints the comment block at the head of the calling script, without its marks.
usage() { sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"; }

may_install() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

apt_install() {
  local log
  log=$(mktemp)
  if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"; } \
    >"$log" 2>&1 </dev/null; then
    tail -n 5 "$log" >&2
    rm -f "$log"
    die "apt-get could not install: $*"
  fi
  rm -f "$log"
}

# The process of pid file $1 is alive and its command line has $2: a number may have been reused.
runs() {
  local pid
  pid=$(cat "$1" 2>/dev/null) || return 1
  { cat "/proc/$pid/cmdline" 2>/dev/null || ps -o args= -p "$pid" 2>/dev/null; } | grep -qaF "$2"
}

# Asks the process of pid file $1, named $2, to end and waits for it.
end() {
  local pid
  pid=$(cat "$1")
  kill "$pid"
  for _ in $(seq 300); do
    if ! runs "$1" "$2"; then
      rm -f "$1"
      say "$2 stopped"
      return
    fi
    sleep 0.1
  done
  die "$2 (pid $pid) does not end within 30 s"
}
