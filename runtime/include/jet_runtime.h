/* C interface of jet-runtime: a model file in, token ids in, logits and token ids out.
 *
 * Build the library:
 *   cargo rustc -p jet-runtime --features capi --crate-type staticlib --profile tiny    (libjet_runtime.a)
 *   cargo rustc -p jet-runtime --features capi --crate-type cdylib --profile tiny       (libjet_runtime.so)
 *
 * A session may be used by one thread at a time. Functions that return int give 0, or -1 after which jet_error() has
 * the reason; a failed call has changed nothing unless the reason says that a sequence must be reset. */
#ifndef JET_RUNTIME_H
#define JET_RUNTIME_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct jet_session jet_session;

/* Flag of jet_open: each thread but the calling one stays on a processor of its own. */
#define JET_PIN_THREADS 1u

/* Opens an artifact. threads: 0 = one for each core. sequences: how many can be held at once, 1 at least. flags: 0 or
 * JET_PIN_THREADS. NULL on failure; then the reason is in error, cut to error_bytes with its final zero. */
jet_session *jet_open(const char *path, uint32_t threads, uint32_t sequences, uint32_t flags, char *error, size_t error_bytes);

/* Frees a session; NULL is allowed. */
void jet_close(jet_session *session);

/* Why the last call failed; empty if none has. Valid until the next call. */
const char *jet_error(const jet_session *session);

/* Token ids are below this; so long is a row of logits. */
uint32_t jet_vocab_size(const jet_session *session);
/* Most tokens in a sequence. */
uint32_t jet_max_context(const jet_session *session);
/* Most sequences in one jet_decode. */
uint32_t jet_max_batch(const jet_session *session);
/* Ids that end a text: writes up to n of them, returns how many there are. */
size_t jet_eos_ids(const jet_session *session, uint32_t *ids, size_t n);

/* Appends n tokens to a sequence. The rows are then those of the last chunk; the last row is jet_rows() - 1. */
int jet_prefill(jet_session *session, uint32_t sequence, const uint32_t *ids, size_t n);
/* Appends ids[i] to sequences[i], for n different sequences. Row i is then that of sequences[i]. */
int jet_decode(jet_session *session, const uint32_t *sequences, const uint32_t *ids, size_t n);
/* Rows of the last call. */
uint32_t jet_rows(const jet_session *session);
/* The most likely token of a row. */
int jet_argmax(jet_session *session, uint32_t row, uint32_t *id);
/* The logits of a row; n must be jet_vocab_size(). */
int jet_logits(jet_session *session, uint32_t row, float *logits, size_t n);

/* Tokens in a sequence. */
int jet_length(jet_session *session, uint32_t sequence, uint32_t *length);
/* Starts a sequence anew. */
int jet_reset(jet_session *session, uint32_t sequence);

#ifdef __cplusplus
}
#endif

#endif
