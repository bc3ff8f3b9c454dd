package main

import (
	"io"
	"os"

	"golang.org/x/term"
)

// columns is the width of the terminal that w is; 0: it is none.
func columns(w io.Writer) int {
	if !isTerminal(w) {
		return 0
	}
	width, _, err := term.GetSize(int(w.(*os.File).Fd()))
	if err != nil {
		return 80
	}
	return width
}
