//go:build unix

package broker

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// apacheVersion is what the tests run against: the newest that sarama knows.
// pom.xml names it again.
const apacheVersion = "4.3.1"

// pom lists the jars: the broker, its command line tools, and the log binding
// without which it starts and says nothing.
//
//go:embed dist/pom.xml
var pom []byte

//go:embed dist/log4j2.yaml
var log4j []byte

// copyJars pins the plugin: old Mavens pick one that lacks what we use.
const copyJars = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"

// A dist is an installed Kafka: jars, log configuration, and an archive of
// loaded classes, which halves the start.
type dist struct {
	dir     string
	java    string
	archive string
	jars    []string
}

// defaultDist is where Kafka is kept from one test run to the next.
func defaultDist() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("broker: where to keep Kafka: %w", err)
	}
	return filepath.Join(cache, "moorage-test", "kafka-"+apacheVersion), nil
}

// InstallApache puts Kafka's jars into dir, by Maven, and makes the archive of
// loaded classes. "" means the default, below the user's cache folder. It needs Java 17 and mvn. What is there already stays; of
// several processes that want the same dir, one installs and the others wait.
func InstallApache(ctx context.Context, dir string) (err error) {
	if dir == "" {
		if dir, err = defaultDist(); err != nil {
			return err
		}
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return fmt.Errorf("broker: %w", err)
	}
	if d, err := openDist(dir); err == nil && d.hasArchive() {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("broker: %w", err)
	}
	unlock, err := lockFile(ctx, filepath.Join(dir, ".lock"))
	if err != nil {
		return err
	}
	defer unlock()
	d, err := openDist(dir)
	if errors.Is(err, errNoDist) {
		if err := fetchJars(ctx, dir); err != nil {
			return err
		}
		d, err = openDist(dir)
	}
	if err != nil {
		return err
	}
	if d.hasArchive() {
		return nil
	}
	return d.makeArchive(ctx)
}

// errNoDist is a folder without a complete set of jars.
var errNoDist = errors.New("broker: Kafka is not installed")

// openDist looks at an installed Kafka.
func openDist(dir string) (dist, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return dist{}, fmt.Errorf("broker: %w", err)
	}
	java, err := exec.LookPath("java")
	if err != nil {
		return dist{}, fmt.Errorf("broker: Kafka needs Java 17 (Debian: apt-get install default-jdk-headless): %w", err)
	}
	if java, err = filepath.EvalSymlinks(java); err != nil {
		return dist{}, fmt.Errorf("broker: %w", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "complete")); err != nil {
		return dist{}, errNoDist
	}
	jars, err := filepath.Glob(filepath.Join(dir, "libs", "*.jar"))
	if err != nil || len(jars) == 0 {
		return dist{}, errNoDist
	}
	slices.Sort(jars) // the archive holds only for the very same class path
	return dist{dir: dir, java: java, jars: jars, archive: filepath.Join(dir, archiveName(java))}, nil
}

// archiveName differs for each Java, which can read no other's archive.
func archiveName(java string) string {
	sum := fnv.New64a()
	sum.Write([]byte(java))
	// A Java without this file is told apart by its path alone.
	release, _ := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(java)), "release"))
	sum.Write(release)
	return fmt.Sprintf("classes-%x.jsa", sum.Sum64())
}

func (d dist) classPath() string { return strings.Join(d.jars, ":") }

func (d dist) hasArchive() bool {
	_, err := os.Stat(d.archive)
	return err == nil
}

// flags suit short lives on few cores: the quick compiler only, no parallel
// collector.
func (d dist) flags() []string {
	f := d.plainFlags()
	if d.hasArchive() {
		f = append(f, "-XX:SharedArchiveFile="+d.archive)
	}
	return f
}

func (d dist) plainFlags() []string {
	return []string{"-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true",
		"-Dlog4j2.configurationFile=" + filepath.Join(d.dir, "log4j2.yaml")}
}

// fetchJars has Maven copy the jars, and marks the folder complete at the end.
func fetchJars(ctx context.Context, dir string) error {
	mvn, err := exec.LookPath("mvn")
	if err != nil {
		return fmt.Errorf("broker: Kafka's jars come by Maven (Debian: apt-get install maven): %w", err)
	}
	for name, content := range map[string][]byte{"pom.xml": pom, "log4j2.yaml": log4j} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			return fmt.Errorf("broker: %w", err)
		}
	}
	// The second try is for a repository that stumbled.
	var out []byte
	for range 2 {
		cmd := exec.CommandContext(ctx, mvn, "-B", "-q", copyJars, "-DincludeScope=runtime",
			"-DoutputDirectory="+filepath.Join(dir, "libs"))
		cmd.Dir = dir
		if out, err = cmd.CombinedOutput(); err == nil {
			return os.WriteFile(filepath.Join(dir, "complete"), []byte(apacheVersion+"\n"), 0o644)
		}
	}
	return fmt.Errorf("broker: fetch Kafka's jars by mvn: %w: %s", err, tail(out, 2000))
}

// makeArchive runs a node once and has its JVM write down what it loaded.
func (d dist) makeArchive(ctx context.Context) error {
	fresh := d.archive + ".new"
	defer os.Remove(fresh)
	a, err := startOnce(ctx, ApacheConfig{Nodes: 1, JVM: []string{"-XX:ArchiveClassesAtExit=" + fresh}}, d)
	if err != nil {
		return fmt.Errorf("broker: first run, for the class archive: %w", err)
	}
	defer a.Close()
	if err := a.Stop(1); err != nil {
		return err
	}
	if err := os.Rename(fresh, d.archive); err != nil {
		return fmt.Errorf("broker: class archive: %w", err)
	}
	return nil
}

// lockFile takes a lock that the system frees when this process ends.
func lockFile(ctx context.Context, name string) (unlock func(), err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("broker: %w", err)
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			f.Close()
			return nil, fmt.Errorf("broker: lock %s: %w", name, err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("broker: another process installs Kafka in %s: %w", filepath.Dir(name), context.Cause(ctx))
		case <-tick.C:
		}
	}
}
