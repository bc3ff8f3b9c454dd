package scenario

// nearest returns the candidate that name was probably meant to be, or "".
// A third of the letters may differ, or two that changed places: beyond that a
// suggestion would be a guess.
func nearest(name string, candidates []string) string {
	best, limit := "", max(len(name)/3, min(2, len(name)/2))
	for _, c := range candidates {
		if d := distance(name, c); d <= limit {
			best, limit = c, d-1
		}
	}
	return best
}

// distance is Levenshtein's: insertions, deletions and substitutions, in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			substituted := diagonal
			if a[i] != b[j] {
				substituted++
			}
			diagonal = row[j+1]
			row[j+1] = min(substituted, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
