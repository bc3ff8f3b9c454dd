package explore

import (
	"flag"
	"testing"
)

var bounds = flag.String("explore.bounds", "small", `"large": the explorations of make explore too`)

func TestFamilies(t *testing.T) {
	families := Families
	if *bounds == "large" {
		families = append(families[:len(families):len(families)], Larger...)
	}
	states := 0
	for i := range families[len(Families):] {
		families[len(Families)+i].Limit = 50_000_000
	}
	for _, cfg := range families {
		t.Run(cfg.Name, func(t *testing.T) {
			r := Explore(cfg)
			states += r.States
			if r.Bad != "" || !r.Complete {
				t.Fatal(r)
			}
			t.Log(r)
		})
	}
	t.Logf("%d states in %d explorations", states, len(families))
}
