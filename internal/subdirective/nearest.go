package subdirective

import (
	"fmt"
	"strings"
)

// Nearest returns the one of names that word was probably meant to be, or "" if none is near.
func Nearest(word string, names []string) string {
	word = strings.ToLower(strings.ReplaceAll(word, "-", "_"))
	nearest, least := "", 1+len(word)/3
	for _, name := range names {
		if d := distance(word, strings.ToLower(strings.ReplaceAll(name, "-", "_"))); d <= least && d < len(name) {
			nearest, least = name, d-1
		}
	}
	return nearest
}

// DidYouMean continues an error about a word that is none of names. It is empty if none is near.
func DidYouMean(word string, names []string) string {
	if near := Nearest(word, names); near != "" {
		return fmt.Sprintf(" (did you mean %s?)", near)
	}
	return ""
}

// Instead continues an error about a word that is none of names: with the one that was probably meant, and
// with what there is besides.
func Instead(word string, names []string, thereIs string) string {
	meant := DidYouMean(word, names)
	if meant != "" && len(names) == 1 {
		return meant
	}
	return meant + "; " + thereIs
}

// distance returns how many letters must be inserted, removed, replaced or swapped with the next to turn a
// into b.
func distance(a, b string) int {
	var before, last []int // the rows for the prefixes of a that are two letters and one letter shorter
	for i := range len(a) + 1 {
		row := make([]int, len(b)+1)
		for j := range row {
			switch {
			case i == 0:
				row[j] = j
				continue
			case j == 0:
				row[j] = i
				continue
			}
			replaced := last[j-1]
			if a[i-1] != b[j-1] {
				replaced++
			}
			row[j] = min(last[j]+1, row[j-1]+1, replaced)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}
