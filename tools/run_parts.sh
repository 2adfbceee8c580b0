#!/usr/bin/env bash
# Runs the given targets of the Makefile one after the other, all of them even if one fails (but set-up), then prints the minutes of
# each and, last, the closing line of every pytest run. Exit code 1 if a part failed or all took longer than MAX_MINUTES (if set).
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
(($# > 0)) || {
  echo 'run_parts.sh: name at least one target of the Makefile' >&2
  exit 2
}

# minutes SECONDS: with one decimal
minutes() { printf '%d.%d' $(($1 / 60)) $(($1 % 60 / 6)); }

log=$(mktemp)
trap 'rm -f "$log"' EXIT
failed=()
table=()
closing=()
SECONDS=0
for part; do
  start=$SECONDS
  printf '\n===== %s\n' "$part"
  result=ok
  "${MAKE:-make}" --no-print-directory "$part" 2>&1 | tee "$log" || {
    result=FAILED
    failed+=("$part")
  }
  table+=("$(printf '%-18s %5s min  %s' "$part" "$(minutes $((SECONDS - start)))" "$result")")
  # Such as "12 passed, 1 skipped in 3.45s (0:00:03)".
  line=$(grep -E '^(=+ )?([0-9]+ (passed|failed|errors?|skipped|deselected|x[a-z]+|warnings?)|no tests ran).* in [0-9.]+s' "$log" |
    tail -n 1)
  [[ -z $line ]] || closing+=("$line")
  [[ $result == ok || $part != setup ]] || break
done

printf '\n===== minutes\n'
printf '%s\n' "${table[@]}"
printf '%-18s %5s min\n' 'in all' "$(minutes "$SECONDS")"
if [[ -n ${MAX_MINUTES:-} ]] && ((SECONDS > MAX_MINUTES * 60)); then
  echo "longer than the $MAX_MINUTES minutes that all parts together may take"
  failed+=('the time limit')
fi
if ((${#failed[@]} > 0)); then
  printf 'failed: %s\n' "$(printf '%s, ' "${failed[@]}" | sed 's/, $//')"
fi
((${#closing[@]} == 0)) || printf '%s\n' "${closing[@]}"
((${#failed[@]} == 0))
