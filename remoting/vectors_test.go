package remoting_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/moorage-dev/moorage/remoting"
)

// The vectors below were produced by the real Java code.

var someSecret = strings.Repeat("0", 63) + "1"

func TestFirstWordsMatchJava(t *testing.T) {
	for _, tc := range []struct {
		desc string
		got  []byte
		want string
	}{
		{"greeting", remoting.AppendGreeting(nil, remoting.JNLP4), "001650726f746f636f6c3a4a4e4c50342d636f6e6e656374"},
		{
			"proxy greeting and block",
			remoting.AppendProxyBlock(remoting.AppendGreeting(nil, remoting.JNLP4Proxy), "agent1"),
			"001c50726f746f636f6c3a4a4e4c50342d636f6e6e6563742d70726f7879" + "4e6f64652d4e616d653a206167656e74310a0a",
		},
		{"ping", remoting.AppendGreeting(nil, remoting.Ping), "000d50726f746f636f6c3a50696e67"},
		{"ACK", []byte(remoting.ACK), "000341434b"},
		{"OK", remoting.AppendString(nil, remoting.OK), "00024f4b"},
		{"BYE", remoting.AppendString(nil, remoting.BYE), "0003425945"},
		{"refusal", remoting.AppendRefusal(nil, "Authorization failure"), "001c4552524f523a20417574686f72697a6174696f6e206661696c757265"},
		{"no headers", remoting.AppendHeaders(nil, nil), "00027b7d"},
		{
			"headers of agent1",
			remoting.AppendHeaders(nil, remoting.Headers{"Secret-Key": &someSecret, "Node-Name": new("agent1")}),
			"00667b224e6f64652d4e616d65223a226167656e7431222c225365637265742d4b6579223a22" + strings.Repeat("30", 63) + "31227d",
		},
		{
			"escapes",
			remoting.AppendHeaders(nil, remoting.Headers{"k\"\\\n\u0001é😀/<": new("v\t"), "n": nil}),
			"00287b226b5c225c5c5c6e5c7530303031c3a9f09f98802f3c223a22765c74222c226e223a6e756c6c7d",
		},
		{
			"capability",
			remoting.AppendCapability(nil, remoting.StockCapability),
			"0054724f304142584e794142706f6457527a62323475636d567462335270626d63755132467759574a7062476c3065514141414141414141414241674142536741456257467a6133687741414141414141414166343d",
		},
	} {
		if got := hex.EncodeToString(tc.got); got != tc.want {
			t.Errorf("%s: got %s, want %s", tc.desc, got, tc.want)
		}
	}
}

func TestHeadersDecodeAsJavaDoes(t *testing.T) {
	for text, want := range map[string]remoting.Headers{
		`{}`:                                {},
		``:                                  {},
		`{`:                                 {},
		` { "a" : null , "b":"\u0041\/" } `: {"a": nil, "b": new("A/")},
		`{"a":"1","a":"2"}`:                 {"a": new("2")},
		`{"a":"1"`:                          {"a": new("1")},
		`{"a":"1",`:                         {"a": new("1")},
		`{"a":"1","b":"2`:                   {"a": new("1")},
		`{"a":"\ud83d\ude00"}`:              {"a": new("😀")},
		`{"a":"\ud83dx"}`:                   {"a": new("\ufffdx")},
		`{"a":"\"\\\/\b\f\n\r\t"}`:          {"a": new("\"\\/\b\f\n\r\t")},
	} {
		got, _, err := remoting.ParseHeaders(remoting.AppendString(nil, text))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if g, w := remoting.AppendHeaders(nil, got), remoting.AppendHeaders(nil, want); !bytes.Equal(g, w) {
			t.Errorf("%s: got %s, want %s", text, g[2:], w[2:])
		}
	}
	for _, text := range []string{
		`{"a":"1"} x`, `{"a":1}`, `{"a":"1",}`, `null`, `{"a":true}`, `{"a":{}}`, `{"a":["1"]}`, `{a:"1"}`, `{,}`, `{"a" "1"}`,
		`{"a":"\x"}`, `{"a":"\u00g0"}`, `{"a":"\u00"}`, `{"a":nul}`, "{\"a\":\"\xff\"}", `[]`,
	} {
		if h, _, err := remoting.ParseHeaders(remoting.AppendString(nil, text)); !errors.Is(err, remoting.ErrMalformed) {
			t.Errorf("%s: got %v, %v, want it refused", text, h, err)
		}
	}
}

func TestCapabilityMatchesJava(t *testing.T) {
	const front = "rO0ABXNyABpodWRzb24ucmVtb3RpbmcuQ2FwYWJpbGl0eQAAAAAAAAABAgABSgAEbWFza3hw"
	for mask, digits := range map[uint64]string{
		0x000: "AAAAAAAAAAA=", 0x080: "AAAAAAAAAIA=", 0x0fe: "AAAAAAAAAP4=", 0x1fe: "AAAAAAAAAf4=", 0x1ff: "AAAAAAAAAf8=", 0x3fe: "AAAAAAAAA/4=",
	} {
		if got := remoting.CapabilityText(mask); got != front+digits {
			t.Errorf("mask %#x: got %s, want %s", mask, got, front+digits)
		}
		if got, err := remoting.ParseCapabilityText(front + digits); got != mask || err != nil {
			t.Errorf("mask %#x: got %#x, %v", mask, got, err)
		}
	}
	for desc, text := range map[string]string{
		"empty":           "",
		"another class":   "rO0ABXNyABpodWRzb24ucmVtb3RpbmcuQ2FwYWJpbGl0WQAAAAAAAAABAgABSgAEbWFza3hwAAAAAAAAAf4=",
		"a line break":    front + "AAAA\nAAAAf4=",
		"a byte too many": front + "AAAAAAAAAf4A",
		"no base64":       front + "AAAAAAAAAf4*",
	} {
		if _, err := remoting.ParseCapabilityText(text); !errors.Is(err, remoting.ErrMalformed) {
			t.Errorf("%s: got %v, want it refused", desc, err)
		}
	}
}

func TestChunkHeadersMatchJava(t *testing.T) {
	for n, want := range map[int][2]string{
		0: {"0000", "8000"}, 1: {"0001", "8001"}, 127: {"007f", "807f"}, 256: {"0100", "8100"}, 2169: {"0879", "8879"},
		8191: {"1fff", "9fff"}, 8192: {"2000", "a000"}, 32767: {"7fff", "ffff"},
	} {
		for i, more := range []bool{false, true} {
			header := remoting.AppendChunkHeader(nil, n, more)
			if got := hex.EncodeToString(header); got != want[i] {
				t.Errorf("%d bytes, more %t: got %s, want %s", n, more, got, want[i])
			}
			if gotN, gotMore, err := remoting.ParseChunkHeader(header); gotN != n || gotMore != more || err != nil {
				t.Errorf("%s: got %d, %t, %v", want[i], gotN, gotMore, err)
			}
		}
	}
	wire := remoting.AppendCommand(nil, make([]byte, 30206))
	var got []string
	for len(wire) > 0 {
		n, ok := remoting.NextChunk(wire)
		if !ok {
			t.Fatal("a chunk that is not whole")
		}
		got = append(got, hex.EncodeToString(wire[:2]))
		wire = wire[n:]
	}
	if want := "a000 a000 a000 15fe"; strings.Join(got, " ") != want {
		t.Errorf("a command of 30206 bytes: got %s, want %s", got, want)
	}
}

func TestCommandsMatchJava(t *testing.T) {
	const super = "720017687564736f6e2e72656d6f74696e672e436f6d6d616e6400000000000000010200014c00096372656174656441747400154c6a6176612f6c616e672f457863657074696f6e3b787070"
	for _, tc := range []struct {
		class string
		got   []byte
		want  string
		size  int
	}{
		{
			remoting.ClassStreamAck, remoting.AppendStreamAck(nil, 5, 1000),
			"aced000573720025687564736f6e2e72656d6f74696e672e50726f78794f757470757453747265616d2441636b00000000000000010200024900036f696449000473697a6578" + super + "00000005000003e8", 154,
		},
		{
			remoting.ClassStreamFlush, remoting.AppendStreamFlush(nil, 7, 5, 0),
			"aced000573720027687564736f6e2e72656d6f74696e672e50726f78794f757470757453747265616d24466c7573680000000000000001020003490004696f49644900036f696449000972657175657374496478" + super + "000000070000000500000000", 172,
		},
		{
			remoting.ClassStreamChunk, remoting.AppendStreamChunk(nil, 7, 5, 0, []byte("hello")),
			"aced000573720027687564736f6e2e72656d6f74696e672e50726f78794f757470757453747265616d244368756e6b0000000000000001020004490004696f49644900036f69644900097265717565737449645b00036275667400025b4278" + super + "000000070000000500000000757200025b42acf317f8060854e002000078700000000568656c6c6f", 206 + 5,
		},
	} {
		if got := hex.EncodeToString(tc.got); got != tc.want {
			t.Errorf("%s: got %s, want %s", tc.class, got, tc.want)
		}
		if len(tc.got) != tc.size {
			t.Errorf("%s: %d bytes, want %d", tc.class, len(tc.got), tc.size)
		}
	}
	for class, first := range map[string]string{
		remoting.ClassUserRequest:  "aced00057372001b687564736f6e2e72656d6f74696e672e5573657252657175657374",
		remoting.ClassResponse:     "aced000573720018687564736f6e2e72656d6f74696e672e526573706f6e7365",
		remoting.ClassRPCRequest:   "aced000573720032687564736f6e2e72656d6f74696e672e52656d6f7465496e766f636174696f6e48616e646c65722452504352657175657374",
		remoting.ClassCloseCommand: "aced000573720024687564736f6e2e72656d6f74696e672e4368616e6e656c24436c6f7365436f6d6d616e640d804888bb5bd983",
		remoting.ClassCancel:       "aced00057372001e687564736f6e2e72656d6f74696e672e526571756573742443616e63656ce844e2f4707a2cc8",
	} {
		b, err := hex.DecodeString(first)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := remoting.Class(b); got != class || err != nil {
			t.Errorf("%s: got %q, %v", class, got, err)
		}
		if !bytes.HasPrefix(b, remoting.AppendClass(nil, class)) {
			t.Errorf("%s: other first bytes", class)
		}
	}
	for _, b := range []string{"GET / HTTP/1.1", "\xac\xed\x00\x05sr\x00\x10java.lang.String", "\xac\xed\x00\x05sr\xff\xff"} {
		if got, err := remoting.Class([]byte(b)); !errors.Is(err, remoting.ErrMalformed) {
			t.Errorf("%q: got %q, %v", b, got, err)
		}
	}
}

func TestSecretsAndAgentFilesMatchJava(t *testing.T) {
	key := make([]byte, 32)
	for i := range key {
		key[i] = byte(i)
	}
	for name, want := range map[string]string{
		"agent1":   "00f2be5ce25720984334d870c1c7d553f2ef1279eb33dac307113b9bb73cdbb9",
		"agenté 2": "d1993cf39f4e68543118ff0bb0c45e3c82cd8b42a99d335240e51d2dc50bc231",
	} {
		if got := remoting.Secret(key, name); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}

	secret := remoting.Secret(key, "agent1")
	iv := [16]byte(key)
	file, err := remoting.EncryptJNLP(secret, iv, []byte("<jnlp/>"))
	if want := "000102030405060708090a0b0c0d0e0f" + "b17c5b69bda709"; hex.EncodeToString(file) != want || err != nil {
		t.Errorf("encrypted: got %x, %v, want %s", file, err, want)
	}
	xml, err := remoting.DecryptJNLP(secret, file)
	if string(xml) != "<jnlp/>" || err != nil {
		t.Errorf("decrypted: got %q, %v", xml, err)
	}
	for desc, bad := range map[string]string{"no hex": "hunter2", "too short": "00f2be5c"} {
		if _, err := remoting.DecryptJNLP(bad, file); !errors.Is(err, remoting.ErrMalformed) {
			t.Errorf("a secret that is %s: got %v", desc, err)
		} else if strings.Contains(err.Error(), bad) {
			t.Errorf("the error shows the secret: %v", err)
		}
	}
	if _, err := remoting.DecryptJNLP(secret, file[:15]); !errors.Is(err, remoting.ErrMalformed) {
		t.Errorf("a file that breaks off: got %v", err)
	}
}
