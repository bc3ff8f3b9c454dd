package config

// Nearest returns the candidate that name was probably meant to be, or "".
// A third of the letters may differ, or two that changed places: more, and a
// suggestion only misleads.
func Nearest(name string, candidates []string) string {
	best, bestDistance := "", max(len(name)/3, min(2, len(name)/2))+1
	for _, candidate := range candidates {
		if d := distance(name, candidate); d < bestDistance {
			best, bestDistance = candidate, d
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
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
