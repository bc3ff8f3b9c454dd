package apachetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"

	"github.com/moorage-dev/moorage/broker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestOneNodeKeepsWhatItWasGivenThroughACrash(t *testing.T) {
	tk := startTestKafka(t, broker.ApacheConfig{FastFailover: true})
	tk.createTopic(topic, 1, 1)
	tk.produce("before")
	tk.step("kill", tk.Kill(1))
	if tk.PID(1) != 0 {
		t.Error("a killed node has a process")
	}
	tk.step("kill what is dead", wantError(tk.Kill(1)))
	tk.step("start again", tk.Start(tk.ctx, 1))
	tk.step("start what runs", wantError(tk.Start(tk.ctx, 1)))
	tk.produce("after")
	tk.wantRecords("both lives", "before", "after")
	tk.step("stop", tk.Stop(1))
	tk.step("no such node", wantError(tk.Stop(2)))
}

func TestThreeNodesGoOnWithTwo(t *testing.T) {
	tk := startTestKafka(t, broker.ApacheConfig{Nodes: 3, FastFailover: true})
	tk.createTopic(topic, 1, 3)
	tk.produce("three")
	leader := tk.leader(topic)
	tk.step("kill the leader", tk.Kill(leader))
	tk.produce("two")
	if now := tk.leader(topic); now == leader {
		t.Errorf("node %d still leads after its death", now)
	}
	tk.step("start it again", tk.Start(tk.ctx, leader))
	frozen := tk.leader(topic)
	tk.step("freeze the new leader", tk.Pause(frozen))
	tk.step("thaw it", tk.Resume(frozen))
	tk.produce("three again")
	tk.wantRecords("nothing is lost", "three", "two", "three again")
}

func TestSecureNodeKnowsWhoMayDoWhat(t *testing.T) {
	tk := startTestKafka(t, broker.ApacheConfig{Secure: true, Users: map[string]string{"moorage": "moorage-secret", "foreign": "foreign-secret"}})
	tk.createTopic(topic, 1, 1)
	tk.allow("moorage", "moorage.", kmsg.ACLOperationWrite, kmsg.ACLOperationDescribe)
	if tk.CAs() == nil || tk.CAFile() == "" || tk.Password("moorage") != "moorage-secret" {
		t.Error("a client can't learn what it needs to come in")
	}
	if err := tk.tryProduce("moorage", "mine"); err != nil {
		t.Errorf("produce as moorage: %v", err)
	}
	if err := tk.tryProduce("foreign", "not mine"); !errors.Is(err, kerr.TopicAuthorizationFailed) {
		t.Errorf("produce as foreign: got %v, want %v", err, kerr.TopicAuthorizationFailed)
	}
	tk.wantRecords("only who may", "mine")
}

func TestCloseLeavesNothingBehind(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	tk := startTestKafka(t, broker.ApacheConfig{})
	tk.step("freeze", tk.Pause(1)) // a frozen process, too, is ended
	pid := tk.PID(1)
	tk.Close()
	if _, err := os.Stat(filepath.Join("/proc", strconv.Itoa(pid))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("process %d after Close: %v", pid, err)
	}
	left, err := os.ReadDir(os.TempDir())
	if err != nil || len(left) > 0 {
		t.Errorf("left in the temporary folder: %v, %v", left, err)
	}
}

// A test that is killed runs no cleanup. Its brokers must not stay, and its data
// not for long.
func TestAKilledOwnerTakesItsBrokersAlong(t *testing.T) {
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=TestOwnerToBeKilled", "-test.timeout=2m")
	cmd.Env = append(os.Environ(), ownerEnv+"=1")
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscanf(out, "pid %d\n", &pid); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed, as it should be
	waitGone(t, pid)

	left, err := filepath.Glob(filepath.Join(temp, "moorage-kafka-*"))
	if err != nil || len(left) != 1 {
		t.Fatalf("left behind: %q, %v; want one folder", left, err)
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(left[0], old, old); err != nil {
		t.Fatal(err)
	}
	startTestKafka(t, broker.ApacheConfig{})
	if _, err := os.Stat(left[0]); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the next start left the dead owner's data: %v", err)
	}
}

// ownerEnv turns TestOwnerToBeKilled into the process that its namesake kills.
const ownerEnv = "MOORAGE_TEST_OWNER"

func TestOwnerToBeKilled(t *testing.T) {
	if os.Getenv(ownerEnv) == "" {
		return // only TestAKilledOwnerTakesItsBrokersAlong means it
	}
	tk := startTestKafka(t, broker.ApacheConfig{})
	fmt.Printf("pid %d\n", tk.PID(1))
	<-tk.ctx.Done()
}

// waitGone returns when a process that is nobody's child here has ended.
func waitGone(t *testing.T, pid int) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for limit := time.After(10 * time.Second); ; {
		stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
		if err != nil || strings.Contains(string(stat), ") Z ") { // gone, or dead and not yet reaped
			return
		}
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("process %d lives on", pid)
		}
	}
}

const topic = "moorage.test.up"

// A testKafka is a cluster with a client for the super user.
type testKafka struct {
	*broker.Apache
	t     *testing.T
	ctx   context.Context
	admin *kgo.Client
}

func startTestKafka(t *testing.T, cfg broker.ApacheConfig) *testKafka {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // an installation may be among it
	t.Cleanup(cancel)
	began := time.Now()
	a, err := broker.StartApache(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	t.Logf("%d node(s) ready after %v", len(a.Addrs()), time.Since(began).Round(time.Millisecond))
	tk := &testKafka{Apache: a, t: t, ctx: ctx}
	tk.admin = tk.connect("admin")
	return tk
}

func (tk *testKafka) connect(user string, opts ...kgo.Opt) *kgo.Client {
	tk.t.Helper()
	client, err := kgo.NewClient(slices.Concat(tk.ClientOpts(user), []kgo.Opt{
		kgo.MetadataMinAge(100 * time.Millisecond), kgo.DefaultProduceTopic(topic)}, opts)...)
	if err != nil {
		tk.t.Fatal(err)
	}
	tk.t.Cleanup(client.Close)
	return client
}

func (tk *testKafka) step(what string, err error) {
	tk.t.Helper()
	if err != nil {
		tk.t.Fatalf("%s: %v", what, err)
	}
}

func wantError(err error) error {
	if err == nil {
		return errors.New("went well, want an error")
	}
	return nil
}

func (tk *testKafka) createTopic(name string, partitions int32, replicas int16) {
	tk.t.Helper()
	req := kmsg.NewPtrCreateTopicsRequest()
	rt := kmsg.NewCreateTopicsRequestTopic()
	rt.Topic, rt.NumPartitions, rt.ReplicationFactor = name, partitions, replicas
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(tk.ctx, tk.admin)
	if err == nil {
		err = kerr.ErrorForCode(resp.Topics[0].ErrorCode)
	}
	tk.step("create topic", err)
}

// allow gives user the operations on the topics whose names start with prefix.
func (tk *testKafka) allow(user, prefix string, operations ...kmsg.ACLOperation) {
	tk.t.Helper()
	req := kmsg.NewPtrCreateACLsRequest()
	for _, op := range operations {
		c := kmsg.NewCreateACLsRequestCreation()
		c.ResourceType, c.ResourceName = kmsg.ACLResourceTypeTopic, prefix
		c.ResourcePatternType, c.Principal, c.Host = kmsg.ACLResourcePatternTypePrefixed, "User:"+user, "*"
		c.Operation, c.PermissionType = op, kmsg.ACLPermissionTypeAllow
		req.Creations = append(req.Creations, c)
	}
	resp, err := req.RequestWith(tk.ctx, tk.admin)
	tk.step("create ACLs", err)
	for _, r := range resp.Results {
		tk.step("create ACL", kerr.ErrorForCode(r.ErrorCode))
	}
}

func (tk *testKafka) leader(topic string) int {
	tk.t.Helper()
	req := kmsg.NewPtrMetadataRequest()
	rt := kmsg.NewMetadataRequestTopic()
	rt.Topic = &topic
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(tk.ctx, tk.admin)
	tk.step("ask for the leader", err)
	return int(resp.Topics[0].Partitions[0].Leader)
}

func (tk *testKafka) tryProduce(user, value string) error {
	return tk.connect(user).ProduceSync(tk.ctx, kgo.StringRecord(value)).FirstErr()
}

func (tk *testKafka) produce(value string) {
	tk.t.Helper()
	tk.step("produce "+value, tk.tryProduce("admin", value))
}

func (tk *testKafka) wantRecords(desc string, want ...string) {
	tk.t.Helper()
	client := tk.connect("admin", kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().AtStart()}}))
	ctx, cancel := context.WithTimeout(tk.ctx, 30*time.Second)
	defer cancel()
	var got []string
	for len(got) < len(want) && ctx.Err() == nil {
		client.PollFetches(ctx).EachRecord(func(r *kgo.Record) { got = append(got, string(r.Value)) })
	}
	if !slices.Equal(got, want) {
		tk.t.Errorf("%s: got %q, want %q", desc, got, want)
	}
}
