# The rows of measurements as a table.

def number:
	if . < 0 then "-" + (-. | number)
	elif . >= 100 then round | tostring
	elif . >= 10 then . * 10 | round / 10 | tostring
	elif . >= 0.1 then . * 100 | round / 100 | tostring
	else . * 10000 | round / 10000 | tostring end;

def cells:
	def shown($row):
		if $row.measure == "ratio" then number + "x"
		elif $row.measure == "more" then (if . < 0 then "" else "+" end) + number + " " + $row.unit
		else number + " " + $row.unit end;
	. as $row |
	[ .case, "\(.ours | number) \(.unit)", "\(.other | number) \(.unit)", (.value | shown($row)),
	  "\(.min | shown($row)) .. \(.max | shown($row))", (.fastest | shown($row)),
	  if .target == null then "-", "-"
	  else "< " + (.target | shown($row)), (if .met then "met" else "not met" end) end ];

def padded($width; $left): (" " * ($width - length) // "") as $space |
	if $left then . + $space else $space + . end;

[["case", "ours", "other", "median", "lowest .. highest", "of the fastest", "target", "verdict"]]
	+ map(cells)
| (transpose | map(map(length) | max)) as $widths
| .[] | [to_entries[] | .key as $column | .value | padded($widths[$column]; $column == 0)]
| join("  ")
