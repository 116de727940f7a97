# Reads KTAP, hands it on indented by one level, and writes to the file "counts"
# how many cases passed, failed and were skipped. A case is a line without
# subtests of its own. What is missing of a plan counts as one failure.

function complain(text) {
	print "    # " text
	failed++
}

# The plan at depth d, and what came of it
function settle(d) {
	if (d in plan && seen[d] != plan[d])
		complain(plan[d] " cases were planned, " seen[d] + 0 " reported")
	delete plan[d]
	seen[d] = 0
}

{
	print "    " $0
	fflush()
	match($0, /^ */)
	depth = int(RLENGTH / 4)
	line = substr($0, RLENGTH + 1)
}
line ~ /^1\.\.[0-9]+/ {
	settle(depth)
	plan[depth] = substr(line, 4) + 0
	any = 1
}
line ~ /^(not )?ok / {
	bad = line ~ /^not /
	seen[depth]++
	if (last > depth) {	# the verdict on the subtests before it
		settle(depth + 1)
		if (bad && failed == before)
			failed++
	} else if (line ~ /# SKIP/) {
		skipped++
	} else if (bad) {
		failed++
	} else {
		passed++
	}
	if (!depth)
		before = failed
	last = depth
}

END {
	settle(0)
	if (!any)
		complain("no plan: it ended before it began")
	print passed + 0, failed + 0, skipped + 0 > counts
}
