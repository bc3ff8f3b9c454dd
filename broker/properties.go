//go:build unix

package broker

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// clusterID is any id of the right form; all nodes of all clusters share it,
// for no two clusters ever meet.
const clusterID = "MkU3OEVBNTcwNTJENDM2Qg"

// baseProperties make a small, quiet node. Without them it wants 350 MB: the
// cleaner's buffer alone takes 128 MiB of heap.
var baseProperties = map[string]string{
	"process.roles":                        "broker,controller",
	"controller.listener.names":            "CONTROLLER",
	"auto.create.topics.enable":            "false",
	"offsets.topic.num.partitions":         "4",
	"transaction.state.log.num.partitions": "4",
	"group.initial.rebalance.delay.ms":     "0",
	"log.cleaner.dedupe.buffer.size":       "2097152",
	"log.cleaner.threads":                  "1",
	"num.network.threads":                  "2",
	"num.io.threads":                       "4",
	"background.threads":                   "2",
	"num.recovery.threads.per.data.dir":    "1",
	"log.segment.bytes":                    "67108864",
}

// fastFailover shortens how long a silent leader keeps its partitions.
var fastFailover = map[string]string{
	"broker.session.timeout.ms":                 "2000",
	"broker.heartbeat.interval.ms":              "500",
	"controller.quorum.fetch.timeout.ms":        "1000",
	"controller.quorum.election.timeout.ms":     "500",
	"controller.quorum.election.backoff.max.ms": "500",
	"controller.quorum.request.timeout.ms":      "1000",
}

// serverProperties are the settings of one node.
func (a *Apache) serverProperties(n *node) map[string]string {
	voters := make([]string, len(a.nodes))
	for i, other := range a.nodes {
		voters[i] = fmt.Sprintf("%d@%s", other.id, other.controller)
	}
	replicas := strconv.Itoa(min(len(a.nodes), 3))
	inSync := strconv.Itoa(max(1, min(len(a.nodes), 3)-1))
	p := maps.Clone(baseProperties)
	maps.Copy(p, map[string]string{
		"node.id":                                          strconv.Itoa(n.id),
		"controller.quorum.voters":                         strings.Join(voters, ","),
		"listeners":                                        "PLAINTEXT://" + n.client + ",CONTROLLER://" + n.controller,
		"advertised.listeners":                             "PLAINTEXT://" + n.client,
		"listener.security.protocol.map":                   "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
		"log.dirs":                                         n.data(),
		"default.replication.factor":                       replicas,
		"min.insync.replicas":                              inSync,
		"offsets.topic.replication.factor":                 replicas,
		"transaction.state.log.replication.factor":         replicas,
		"transaction.state.log.min.isr":                    inSync,
		"share.coordinator.state.topic.replication.factor": replicas,
		"share.coordinator.state.topic.min.isr":            inSync,
	})
	if len(a.cfg.Proxies) > 0 {
		// The nodes stay among themselves: proxies are for clients.
		p["listeners"] += ",FRONT://" + n.front
		p["advertised.listeners"] += ",FRONT://" + a.cfg.Proxies[n.id-1]
		p["listener.security.protocol.map"] += ",FRONT:PLAINTEXT"
		p["inter.broker.listener.name"] = "PLAINTEXT"
	}
	if a.cfg.FastFailover {
		maps.Copy(p, fastFailover)
	}
	if a.secrets != nil {
		maps.Copy(p, a.secrets.serverProperties(n))
	}
	maps.Copy(p, a.cfg.Properties)
	return p
}

func writeProperties(file string, p map[string]string) error {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(p)) {
		fmt.Fprintf(&b, "%s=%s\n", k, p[k])
	}
	return os.WriteFile(file, []byte(b.String()), 0o600)
}

// format prepares the nodes' folders: what Kafka demands before a first start.
//
// Its tool costs a JVM's start for each. But what it writes is the same for
// every node, except for two ids, and without users the same for every
// cluster: so it is kept with the jars.
func (a *Apache) format(ctx context.Context) error {
	for _, n := range a.nodes {
		if err := os.MkdirAll(n.data(), 0o700); err != nil {
			return fmt.Errorf("broker: %w", err)
		}
		if err := writeProperties(n.properties(), a.serverProperties(n)); err != nil {
			return fmt.Errorf("broker: %w", err)
		}
	}
	kept := filepath.Join(a.dist.dir, checkpointName)
	checkpoint, err := os.ReadFile(kept)
	switch {
	case a.secrets != nil:
		if checkpoint, err = a.runFormat(ctx, a.nodes[0]); err != nil {
			return err
		}
	case err != nil:
		if checkpoint, err = a.runFormat(ctx, a.nodes[0]); err != nil {
			return err
		}
		if err := replaceFile(kept, checkpoint); err != nil {
			return fmt.Errorf("broker: %w", err)
		}
	}
	for _, n := range a.nodes {
		metaFile := filepath.Join(n.data(), "meta.properties")
		if _, err := os.Stat(metaFile); err == nil {
			continue // formatted in an earlier life
		}
		if err := os.WriteFile(filepath.Join(n.data(), checkpointName), checkpoint, 0o600); err != nil {
			return fmt.Errorf("broker: %w", err)
		}
		meta := map[string]string{"version": "1", "cluster.id": clusterID,
			"node.id": strconv.Itoa(n.id), "directory.id": directoryID()}
		if err := writeProperties(metaFile, meta); err != nil {
			return fmt.Errorf("broker: %w", err)
		}
	}
	return nil
}

// checkpointName is the file with the cluster's first records: the versions of
// its features, and its users.
const checkpointName = "bootstrap.checkpoint"

// directoryID is a random id in the form that Kafka's tool writes; the first
// byte keeps it from starting with a dash.
func directoryID() string {
	id := [16]byte{}
	rand.Read(id[1:])
	return base64.RawURLEncoding.EncodeToString(id[:])
}

// runFormat has Kafka's own tool format a node, and returns the checkpoint.
func (a *Apache) runFormat(ctx context.Context, n *node) ([]byte, error) {
	args := slices.Concat(a.dist.flags(), []string{"-Xmx128m", "-cp", a.dist.classPath(), "kafka.tools.StorageTool",
		"format", "--ignore-formatted", "-t", clusterID, "-c", n.properties()})
	if a.secrets != nil {
		args = append(args, a.secrets.formatArgs()...)
	}
	if out, err := exec.CommandContext(ctx, a.dist.java, args...).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("broker: format: %w: %s", err, tail(out, 2000))
	}
	checkpoint, err := os.ReadFile(filepath.Join(n.data(), checkpointName))
	if err != nil {
		return nil, fmt.Errorf("broker: format: %w", err)
	}
	return checkpoint, nil
}

// replaceFile writes a file that others may be reading.
func replaceFile(name string, content []byte) error {
	fresh := name + "." + strconv.Itoa(os.Getpid())
	if err := os.WriteFile(fresh, content, 0o644); err != nil {
		return err
	}
	return os.Rename(fresh, name)
}
