package scenario

import (
	"strings"

	"github.com/moorage-dev/moorage/config"
	"github.com/moorage-dev/moorage/loadtest/figure"
)

// figure checks the name of a threshold.
func (s *Scenario) figure(path, name string) *Problem {
	if figure.Known(name) {
		return nil
	}
	var names []string
	for _, f := range figure.All {
		names = append(names, f.Name)
	}
	if near := config.Nearest(name, names); near != "" {
		return wrong(path, "no figure has this name; did you mean %q?", near)
	}
	return wrong(path, "no figure has this name; the names are %s", strings.Join(names, ", "))
}
