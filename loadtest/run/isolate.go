package run

import "github.com/moorage-dev/moorage/loadtest/site"

// Isolate moves this process into namespaces of its own if the scenario has
// faults that need them; see [site.Isolate]. It comes before anything else is
// done, for it begins the program again.
func Isolate(cfg Config) error {
	s := cfg.Site
	prepare(&s, cfg.Scenario)
	return site.Isolate(s)
}
