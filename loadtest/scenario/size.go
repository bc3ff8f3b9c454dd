package scenario

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Build names the sizes of a real build.
const Build = "build"

// build is a rough picture of what flows between a controller and a build:
// most messages are commands of 60 B to 4 KiB, small ones far more often than
// large ones; one in five is a chunk of a log; one in 50,000 starts a file of
// 10 to 100 MB. A file so weighs as much as 13,000 other messages, and files
// make a fifth of the bytes. Nothing but the order of magnitude is meant; a
// list of parts scales it.
var build = []Part{
	{Min: 60, Max: 120, Weight: 0.30},
	{Min: 120, Max: 300, Weight: 0.30},
	{Min: 300, Max: 1 << 10, Weight: 0.15},
	{Min: 1 << 10, Max: 4 << 10, Weight: 0.05},
	{Min: 8 << 10, Max: 8 << 10, Weight: 0.2},
	{Min: 64 << 10, Max: 64 << 10, Weight: 12e-6, Pieces: 160},  // 10 MB
	{Min: 64 << 10, Max: 64 << 10, Weight: 6e-6, Pieces: 480},   // 30 MB
	{Min: 64 << 10, Max: 64 << 10, Weight: 2e-6, Pieces: 1_526}, // 100 MB
}

const (
	usual   = "256" // of the zero Size
	largest = 1 << 30

	// MaxMessage is the largest message of an agent of kind native: one frame.
	MaxMessage = 64 << 10
)

var errSize = errors.New(`want bytes ("256", "64KiB"), a range ("100B-4KiB"), "build", or a list of {size, weight}`)

// ParseSize reads a number, a range or "build"; "" is 256 bytes.
func ParseSize(text string) (Size, error) {
	if text == "" {
		text = usual
	}
	if text == Build {
		return Size{Parts: build, Text: text}, nil
	}
	low, high, ranged := strings.Cut(text, "-")
	if !ranged {
		high = low
	}
	from, err := ParseBytes(low)
	if err != nil {
		return Size{}, fmt.Errorf("%s: %w", text, errSize)
	}
	to, err := ParseBytes(high)
	switch {
	case err != nil:
		return Size{}, fmt.Errorf("%s: %w", text, errSize)
	case from > to:
		return Size{}, fmt.Errorf("%s: the range ends before it begins", text)
	case to < 1:
		return Size{}, fmt.Errorf("%s: want at least 1 byte", text)
	}
	return Size{Parts: []Part{{Min: from, Max: to, Weight: 1}}, Text: text}, nil
}

var units = []struct {
	name  string
	bytes float64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30},
	{"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1},
}

// ParseBytes reads a number of bytes, up to 1 GiB: 256, 64KiB, 10MB.
func ParseBytes(text string) (int, error) {
	number, unit := strings.TrimSpace(text), 1.0
	for _, u := range units {
		if before, found := strings.CutSuffix(number, u.name); found {
			number, unit = strings.TrimSpace(before), u.bytes
			break
		}
	}
	n, err := strconv.ParseFloat(number, 64)
	if n *= unit; err != nil || !(n >= 0 && n <= largest) || n != math.Trunc(n) {
		return 0, fmt.Errorf("%s: want bytes, such as 256, 64KiB or 10MB, at most 1GiB", text)
	}
	return int(n), nil
}

// Mean is the expected size of one drawing: all pieces of a file together.
func (s Size) Mean() float64 {
	sum, weights := 0.0, 0.0
	for _, p := range s.parts() {
		sum += p.Weight * float64(p.Min+p.Max) / 2 * float64(max(1, p.Pieces))
		weights += p.Weight
	}
	return sum / weights
}

// Largest is the size of the largest single message.
func (s Size) Largest() int {
	m := 0
	for _, p := range s.parts() {
		m = max(m, p.Max)
	}
	return m
}

// parts of a Size made by hand may be missing.
func (s Size) parts() []Part {
	if len(s.Parts) == 0 {
		return []Part{{Min: 256, Max: 256, Weight: 1}}
	}
	return s.Parts
}

// A share is an element of a Size's list, as it is written.
type share struct {
	Size   string  `yaml:"size" json:"size"`
	Weight float64 `yaml:"weight" json:"weight"`
	Pieces int     `yaml:"pieces,omitempty" json:"pieces,omitempty"`
}

func sized(shares []share) (Size, error) {
	var all Size
	for i, one := range shares {
		s, err := ParseSize(one.Size)
		switch {
		case err != nil:
			return Size{}, fmt.Errorf("[%d]: %w", i, err)
		case !(one.Weight > 0) || math.IsInf(one.Weight, 0):
			return Size{}, fmt.Errorf("[%d].weight: %v: want more than 0", i, one.Weight)
		case one.Pieces < 0 || one.Pieces > 1<<20:
			return Size{}, fmt.Errorf("[%d].pieces: %d: want 1 to %d", i, one.Pieces, 1<<20)
		case one.Pieces > 0 && one.Size == Build:
			return Size{}, fmt.Errorf("[%d].pieces: build has its own", i)
		}
		total := 0.0
		for _, p := range s.Parts {
			total += p.Weight
		}
		for _, p := range s.Parts {
			p.Weight *= one.Weight / total
			if one.Pieces > 0 {
				p.Pieces = one.Pieces
			}
			all.Parts = append(all.Parts, p)
		}
	}
	if len(all.Parts) == 0 {
		return Size{}, fmt.Errorf("an empty list: %w", errSize)
	}
	return all, nil
}

func (s Size) shares() []share {
	var all []share
	for _, p := range s.Parts {
		text := strconv.Itoa(p.Min)
		if p.Max != p.Min {
			text += "-" + strconv.Itoa(p.Max)
		}
		all = append(all, share{text, p.Weight, p.Pieces})
	}
	return all
}

// written is s as text, or as a list when it was one.
func (s Size) written() any {
	switch {
	case s.Text != "":
		return s.Text
	case len(s.Parts) == 0:
		return usual
	}
	return s.shares()
}

// MarshalJSON writes the text, or the list.
func (s Size) MarshalJSON() ([]byte, error) { return json.Marshal(s.written()) }

// UnmarshalJSON reads what MarshalJSON wrote.
func (s *Size) UnmarshalJSON(b []byte) (err error) {
	var shares []share
	if json.Unmarshal(b, &shares) == nil && shares != nil {
		if *s, err = sized(shares); err == nil {
			s.restore(shares)
		}
		return err
	}
	var text string
	if err := json.Unmarshal(b, &text); err != nil {
		return fmt.Errorf("%s: %w", b, errSize)
	}
	*s, err = ParseSize(text)
	return err
}

// restore takes weights as they were written, which a division may have moved
// by the last bit.
func (s *Size) restore(shares []share) {
	if len(shares) == len(s.Parts) {
		for i := range shares {
			s.Parts[i].Weight = shares[i].Weight
		}
	}
}

// MarshalYAML writes the text, or the list.
func (s Size) MarshalYAML() (any, error) { return s.written(), nil }

// UnmarshalYAML reads a number, a text or a list.
func (s *Size) UnmarshalYAML(node *yaml.Node) (err error) {
	switch node.Kind {
	case yaml.ScalarNode:
		*s, err = ParseSize(node.Value)
		return err
	case yaml.SequenceNode:
		var shares []share
		if err := node.Decode(&shares); err != nil {
			return errSize
		}
		if *s, err = sized(shares); err == nil {
			s.restore(shares)
		}
		return err
	}
	return errSize
}
