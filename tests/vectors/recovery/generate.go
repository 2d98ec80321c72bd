// Writes the recovery vectors: `go run generate.go` in this folder, Go 1.26 or later.
//
// Shares no line with keymgmt: HPKE is that of Go's standard library, the rest is spelt out here once
// more. HPKE draws its own randomness, so each run writes other blobs; the files that are kept stand for
// what earlier releases stored, and are added to rather than written again.
//
//	comment      what the vector shows
//	expect       "key" or "decryption-failed"
//	private      seed of the private half, hex
//	public       the public half, base64
//	vault_id     of an epoch key; absent from blobs
//	epoch_key    of a blob; absent from epoch keys
//	epoch        the epoch it is said to be of
//	kind         of a blob: 1, 2 or 3
//	context      of a blob, hex
//	sealed       the blob or the sealed epoch key, base64
//	key          what comes out, hex; with "key" only
package main

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hpke"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"os"
)

type vector struct {
	Comment  string `json:"comment"`
	Expect   string `json:"expect"`
	Private  string `json:"private"`
	Public   []byte `json:"public"`
	VaultID  string `json:"vault_id,omitempty"`
	EpochKey string `json:"epoch_key,omitempty"`
	Epoch    uint64 `json:"epoch"`
	Kind     byte   `json:"kind,omitempty"`
	Context  string `json:"context,omitempty"`
	Sealed   []byte `json:"sealed"`
	Key      string `json:"key,omitempty"`
}

const blobTag, epochKeyTag = "strongroom/recovery/v1", "strongroom/epoch-key/v1"

var (
	seed, otherSeed = counting(0), counting(32)
	epochKey, dead  = counting(64), counting(96)
	dataKey         = counting(128)
	context, moved  = []byte("strongroom/object/v1 of vectors"), []byte("strongroom/object/v1 of others")
	vaultID         = counting(160)[:16]
)

func main() {
	for _, kind := range []byte{1, 2, 3} {
		name := map[byte]string{1: "version", 2: "catalogue", 3: "backup"}[kind]
		write("opens-"+name, opens("a data key of kind "+name, kind, 7, context))
	}
	write("opens-empty-context", opens("a context of no bytes", 1, 7, nil))
	write("opens-first-epoch", opens("epoch 0", 1, 0, context))
	write("opens-last-epoch", opens("epoch 2^64-1", 1, 1<<64-1, context))
	write("opens-epoch-key", openEpochKey())

	write("refused-dead-epoch", refused("sealed under an epoch key that is gone",
		outer(dead, 1, 7, context, inner(seed, 1, context))))
	write("refused-other-epoch", refused("of epoch 6",
		outer(epochKey, 1, 6, context, inner(seed, 1, context))))
	write("refused-other-recipient", refused("for another recovery key",
		outer(epochKey, 1, 7, context, inner(otherSeed, 1, context))))
	write("refused-outer-kind", refused("outer layer of kind 2",
		outer(epochKey, 2, 7, context, inner(seed, 1, context))))
	write("refused-inner-kind", refused("inner layer of kind 2",
		outer(epochKey, 1, 7, context, inner(seed, 2, context))))
	write("refused-outer-context", refused("outer layer of another context",
		outer(epochKey, 1, 7, moved, inner(seed, 1, context))))
	write("refused-inner-context", refused("inner layer of another context",
		outer(epochKey, 1, 7, context, inner(seed, 1, moved))))
	write("refused-no-outer-layer", refused("the inner layer alone", inner(seed, 1, context)))
	write("refused-short-key", refused("a data key of 31 bytes, well sealed",
		outer(epochKey, 1, 7, context, seal(seed, info(1, context), dataKey[:31]))))
	write("refused-epoch-key-of-other-vault", refusedEpochKey("of another vault",
		seal(seed, epochKeyInfo(dead[:16], 7), epochKey)))
	write("refused-epoch-key-of-other-epoch", refusedEpochKey("of epoch 6",
		seal(seed, epochKeyInfo(vaultID, 6), epochKey)))
	write("refused-short-epoch-key", refusedEpochKey("31 bytes, well sealed",
		seal(seed, epochKeyInfo(vaultID, 7), epochKey[:31])))
}

func opens(comment string, kind byte, epoch uint64, context []byte) vector {
	return vector{
		Comment: comment, Expect: "key", Key: hex.EncodeToString(dataKey),
		EpochKey: hex.EncodeToString(epochKey), Epoch: epoch, Kind: kind,
		Context: hex.EncodeToString(context),
		Sealed:  outer(epochKey, kind, epoch, context, inner(seed, kind, context)),
	}
}

func refused(comment string, blob []byte) vector {
	made := opens(comment, 1, 7, context)
	made.Expect, made.Key, made.Sealed = "decryption-failed", "", blob
	return made
}

func openEpochKey() vector {
	return vector{
		Comment: "an epoch key", Expect: "key", Key: hex.EncodeToString(epochKey),
		VaultID: hex.EncodeToString(vaultID), Epoch: 7,
		Sealed: seal(seed, epochKeyInfo(vaultID, 7), epochKey),
	}
}

func refusedEpochKey(comment string, sealed []byte) vector {
	made := openEpochKey()
	made.Comment, made.Expect, made.Key, made.Sealed = comment, "decryption-failed", "", sealed
	return made
}

func info(kind byte, context []byte) []byte {
	return append(append([]byte(blobTag), kind), context...)
}

func epochKeyInfo(vaultID []byte, epoch uint64) []byte {
	return binary.BigEndian.AppendUint64(append([]byte(epochKeyTag), vaultID...), epoch)
}

func inner(seed []byte, kind byte, context []byte) []byte {
	return seal(seed, info(kind, context), dataKey)
}

func outer(key []byte, kind byte, epoch uint64, context, sealed []byte) []byte {
	nonce := []byte("twelve bytes") // always the same: nothing here is secret
	bound := append(binary.BigEndian.AppendUint64(append([]byte(blobTag), kind), epoch), context...)
	aead := must(cipher.NewGCM(must(aes.NewCipher(key))))
	return aead.Seal(nonce, nonce, sealed, bound)
}

func seal(seed, info, plaintext []byte) []byte {
	public := must(hpke.MLKEM768X25519().NewPrivateKey(seed)).PublicKey()
	return must(hpke.Seal(public, hpke.HKDFSHA256(), hpke.AES256GCM(), info, plaintext))
}

func counting(first byte) []byte {
	counted := make([]byte, 32)
	for i := range counted {
		counted[i] = first + byte(i)
	}
	return counted
}

func write(name string, made vector) {
	made.Private = hex.EncodeToString(seed)
	made.Public = must(hpke.MLKEM768X25519().NewPrivateKey(seed)).PublicKey().Bytes()
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetIndent("", "  ")
	check(encoder.Encode(made))
	check(os.WriteFile(name+".json", text.Bytes(), 0o644))
}

func must[T any](value T, err error) T {
	check(err)
	return value
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
