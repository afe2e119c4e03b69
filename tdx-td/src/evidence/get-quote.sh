#!/bin/sh
# Runs in the guest. Gets a quote for the report data on standard input, and prints the provider on a line, then at
# most $1 bytes of the quote.
#
# The script itself removes the report directory, so that the directory is removed even if the command on the host is
# killed. The name of the directory is unique: nobody else should write to it. The kernel counts writes in generation.
# The read of outblob makes the kernel ask the host for the quote, for which the kernel waits at most 30 seconds.
# A directory that cannot be removed adds 50 to the exit status.
#
# Source: Linux Documentation/ABI/testing/configfs-tsm-report.
reports=/sys/kernel/config/tsm/report
status=0
[ -d "$reports" ] || exit 10
report=$reports/tdx-td.$(cat /proc/sys/kernel/random/uuid) || exit 11
trap '' HUP INT TERM PIPE
mkdir "$report" || exit 11
trap 'status=$?; rmdir "$report" || status=$((status + 50)); exit "$status"' EXIT
trap 'exit 17' HUP INT TERM PIPE
provider=$(cat "$report/provider") || exit 12
printf '%s\n' "$provider"
[ "$provider" = tdx_guest ] || exit 13
before=$(cat "$report/generation") && cat >"$report/inblob" || exit 14
head -c "$1" "$report/outblob" || exit 15
after=$(cat "$report/generation") && [ "$after" = "$((before + 1))" ] || exit 16
