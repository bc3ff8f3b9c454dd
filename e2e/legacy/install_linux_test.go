package legacy_test

import (
	"bytes"
	"context"
	"crypto/sha1"
	_ "embed"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// fetch pins the plugin: old Mavens pick one that lacks what we use.
const fetch = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy"

// An artifact is a file on Maven Central, and the digest it is known by.
type artifact struct {
	coordinates string
	file        string
	sha1        string
}

var artifacts = []artifact{
	{"org.eclipse.hudson:hudson-war:3.3.2:war", "hudson-war-3.3.2.war", "c3f2c800e2437566ce3cf1c02ca3cecf258c83fc"},
	{"org.eclipse.hudson:hudson-remoting:3.0.3:jar", "hudson-remoting-3.0.3.jar", "2f8ad994ca7a949fdd16f034ed82e29438672751"},
	{"org.jvnet.hudson.main:hudson-war:1.395:war", "hudson-war-1.395.war", "84723ee7c8b7c28b3073c6f2ff34a3a8ad44a05c"},
	{"org.jvnet.hudson.main:remoting:1.395:jar", "remoting-1.395.jar", "0cd7d2d91bd4f3b2d2d83f272e85d8bbc184f09e"},
}

//go:embed testdata/Launch.java
var launcher []byte

// install puts the controllers and agents into dir, by Maven, and the launcher
// beside them. What is there and has its digest stays; of several processes
// one installs and the others wait.
func install(ctx context.Context, dir string) error {
	if err := wantJava17(ctx); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := flock(ctx, lock); err != nil {
		return fmt.Errorf("another process installs Hudson in %s: %w", dir, err)
	}
	for _, a := range artifacts {
		if err := a.install(ctx, dir); err != nil {
			return err
		}
	}
	return compile(ctx, dir)
}

// wantJava17 looks at java before the agents do: newer ones refuse what they
// ask for, and they end with a stack trace.
func wantJava17(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, "java", "-version").CombinedOutput()
	if err != nil {
		return fmt.Errorf("Hudson wants Java 17 (Debian: apt-get install openjdk-17-jdk-headless): %w: %s", err, out)
	}
	if !bytes.Contains(out, []byte(`version "17.`)) {
		return fmt.Errorf("Hudson's agents run on Java 17 alone, and java is %s", out)
	}
	return nil
}

func (a artifact) install(ctx context.Context, dir string) error {
	file := filepath.Join(dir, a.file)
	if sum, err := digest(file); err == nil && sum == a.sha1 {
		return nil
	}
	mvn, err := exec.LookPath("mvn")
	if err != nil {
		return fmt.Errorf("Hudson comes by Maven (Debian: apt-get install maven): %w", err)
	}
	var out []byte
	for range 2 { // the second try is for a repository that stumbled
		cmd := exec.CommandContext(ctx, mvn, "-B", "-q", fetch, "-Dartifact="+a.coordinates,
			"-Dmdep.overWriteReleases=true", "-DoutputDirectory="+dir)
		cmd.Dir = dir
		if out, err = cmd.CombinedOutput(); err == nil {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("fetch %s by mvn: %w: %s", a.coordinates, err, out)
	}
	sum, err := digest(file)
	if err != nil {
		return err
	}
	if sum != a.sha1 {
		return fmt.Errorf("%s has SHA-1 %s, want %s", file, sum, a.sha1)
	}
	return nil
}

func digest(file string) (string, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	sum := sha1.Sum(content)
	return hex.EncodeToString(sum[:]), nil
}

// compile makes the launcher's class, if it isn't there or its source changed.
func compile(ctx context.Context, dir string) error {
	source, class := filepath.Join(dir, "Launch.java"), filepath.Join(dir, "Launch.class")
	if old, err := os.ReadFile(source); err == nil && string(old) == string(launcher) {
		if _, err := os.Stat(class); err == nil {
			return nil
		}
	}
	if err := os.WriteFile(source, launcher, 0o644); err != nil {
		return err
	}
	javac, err := exec.LookPath("javac")
	if err != nil {
		return fmt.Errorf("old Hudson's launcher wants a JDK 17 (Debian: apt-get install openjdk-17-jdk-headless): %w", err)
	}
	if out, err := exec.CommandContext(ctx, javac, "-d", dir, source).CombinedOutput(); err != nil {
		_ = os.Remove(class) // a half-written one would count as done
		return fmt.Errorf("compile %s: %w: %s", source, err, out)
	}
	return nil
}

// flock takes a lock that the system frees when this process ends.
func flock(ctx context.Context, f *os.File) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil || err != syscall.EWOULDBLOCK && err != syscall.EINTR {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}
