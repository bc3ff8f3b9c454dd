package remoting

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
)

// Secret derives an agent's secret from its name and the controller's key. A
// name's secret never changes.
func Secret(key []byte, name string) string {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(name))
	return hex.EncodeToString(mac.Sum(nil))
}

// jnlpLimit bounds an encrypted agent file: a stock one has one to two KiB.
const jnlpLimit = 64 << 10

// EncryptJNLP is what a controller answers to ?encrypt=true: the iv, then the
// XML under AES-128-CFB8 with the first half of the agent's secret.
func EncryptJNLP(secret string, iv [16]byte, xml []byte) ([]byte, error) {
	block, err := jnlpCipher(secret)
	if err != nil {
		return nil, err
	}
	out := append(iv[:len(iv):len(iv)], xml...)
	cfb8(block, iv, out[len(iv):], func(_, encrypted byte) byte { return encrypted })
	return out, nil
}

// DecryptJNLP undoes EncryptJNLP. Nothing tells whether the secret was right,
// except that the result is XML then.
func DecryptJNLP(secret string, b []byte) ([]byte, error) {
	block, err := jnlpCipher(secret)
	if err != nil {
		return nil, err
	}
	if len(b) < 16 || len(b) > jnlpLimit {
		return nil, malformed("an encrypted agent file of %d bytes", len(b))
	}
	xml := append([]byte{}, b[16:]...)
	cfb8(block, [16]byte(b), xml, func(encrypted, _ byte) byte { return encrypted })
	return xml, nil
}

func jnlpCipher(secret string) (cipher.Block, error) {
	key, err := hex.DecodeString(secret)
	if err != nil || len(key) < 16 {
		return nil, malformed("a secret that is not at least 32 hex digits")
	}
	return aes.NewCipher(key[:16])
}

// cfb8 runs CFB with an 8-bit shift register over data, which the standard
// library does not have. feed picks, of the byte before and the byte after, the
// encrypted one, which goes into the register.
func cfb8(block cipher.Block, register [16]byte, data []byte, feed func(before, after byte) byte) {
	var pad [16]byte
	for i, before := range data {
		block.Encrypt(pad[:], register[:])
		data[i] = before ^ pad[0]
		copy(register[:], register[1:])
		register[15] = feed(before, data[i])
	}
}
