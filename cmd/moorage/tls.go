package main

import (
	"crypto/tls"
	"crypto/x509"
	"os"
)

// loadPool reads the certificates of flag's file; "" is nil, the system's.
func loadPool(flag, name string) (*x509.CertPool, error) {
	if name == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(name)
	if err != nil {
		return nil, usagef("%s: %w", flag, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, usagef("%s: %s holds no PEM certificate", flag, name)
	}
	return pool, nil
}

// loadPair reads a certificate and its key; both or neither must be given.
func loadPair(certFlag, certFile, keyFlag, keyFile string) ([]tls.Certificate, error) {
	switch {
	case certFile == "" && keyFile == "":
		return nil, nil
	case certFile == "":
		return nil, usagef("%s needs %s too", keyFlag, certFlag)
	case keyFile == "":
		return nil, usagef("%s needs %s too", certFlag, keyFlag)
	}
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, usagef("%s %s, %s %s: %w", certFlag, certFile, keyFlag, keyFile, err)
	}
	return []tls.Certificate{pair}, nil
}
