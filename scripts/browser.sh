# For scripts in the repository's root that test in a real browser, after scripts/setup: finds or installs Chromium and
# makes an environment with Playwright. Sets `browser`, the environment's folder, and LLMSERVE_TEST_CHROMIUM. Exits with
# 77, which no test runner does, where there is no Chromium and it cannot be installed.
playwright=1.65.2
browser=.cache/browser

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }

find_chromium() {
  local name
  for name in "${LLMSERVE_TEST_CHROMIUM:-}" chromium chromium-browser google-chrome-stable google-chrome; do
    if [ -n "$name" ] && command -v "$name"; then return; fi
  done
  if [ -x "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome" ]; then
    echo "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
  fi
}

chromium=$(find_chromium)
if [ -z "$chromium" ] && command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
  say "installing Chromium"
  { apt-get update -qq -o Acquire::Retries=3 &&
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq -o Acquire::Retries=3 --no-install-recommends chromium \
      fonts-dejavu-core; } >&2 || say "apt-get could not install it"
  chromium=$(find_chromium)
fi
if [ -z "$chromium" ]; then
  printf 'error: there is no Chromium here\n\nhint: sudo apt-get install chromium fonts-dejavu-core, or set LLMSERVE_TEST_CHROMIUM to one\n' >&2
  exit 77
fi
export LLMSERVE_TEST_CHROMIUM="$chromium"

# An environment of its own, which sees the packages of .venv as well.
if [ "$(cat "$browser/.playwright" 2>/dev/null)" != "$playwright" ]; then
  rm -rf "$browser"
  .venv/bin/python -m venv --without-pip "$browser"
  site=$("$browser/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --target "$site" "playwright==$playwright" >&2
  beside=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  printf 'import site; site.addsitedir(%s)\n' "'$beside'" >"$site/beside.pth"
  echo "$playwright" >"$browser/.playwright"
fi
