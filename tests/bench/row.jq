# A row of the table from pairs of measurements; see row() in ./cases.

def median: sort | if length % 2 == 1 then .[length / 2 | floor]
	else (.[length / 2 - 1] + .[length / 2]) / 2 end;
def compared: if $measure == "ratio" then .[0] / .[1]
	elif $measure == "more" then .[0] - .[1]
	else .[0] end;

[inputs | split(" ") | map(tonumber) | if $unit == "MiB" then map(. / 1024)[2:4] else .[0:2] end]
| map(compared) as $values
| transpose as [$ours, $other]
| ($values | median) as $value
| {
	case: $case, unit: $unit, measure: $measure, runs: length,
	ours: $ours | median, other: $other | median,
	value: $value, min: $values | min, max: $values | max,
	fastest: [$ours, $other] | map(min) | compared,
	target: $target, met: (if $target == null then null else $value < $target end)
}
