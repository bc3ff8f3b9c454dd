package explore

import (
	"fmt"
	"testing"
	"time"
)

func TestFamilies(t *testing.T) {
	var states int
	var took time.Duration
	for _, cfg := range Families {
		t.Run(cfg.Name, func(t *testing.T) {
			r := Explore(cfg)
			states += r.States
			took += r.Took
			if r.Bad != "" || !r.Complete {
				t.Error(r)
			} else {
				t.Log(r)
			}
			fmt.Fprintln(t.Output(), states, took)
		})
	}
}
