package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// version is set by the linker in release builds.
var version string

// versionText names the build: the linker's version, or what the Go tool recorded.
func versionText() string {
	if version != "" {
		return version
	}
	build, ok := debug.ReadBuildInfo()
	if !ok || build.Main.Version == "" {
		return "(devel)"
	}
	return build.Main.Version
}

type versionCmd struct{}

// Help gives the example.
func (*versionCmd) Help() string { return "\nExample:\n\n  moorage version\n" }

// Run prints the version.
func (*versionCmd) Run(p *process) error {
	_, err := fmt.Fprintf(p.stdout, "moorage %s %s %s/%s\n", versionText(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}
