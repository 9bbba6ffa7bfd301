"""What each member of a request means, by component: what a stranger needs and the limits do not say."""

_DOCUMENT = {
    "doc_id": (
        "The product's own id for the document, 1 to 256 characters without control characters. It may hold slashes, "
        "but no empty, `.` or `..` path segments, since proxies fold those away."
    ),
    "text": (
        "The text to remember, at most 1,000,000 bytes of UTF-8 and at most 200 chunks (about 90,000 words; beyond "
        "that 422 `too_many_chunks`), with at least one character that is not white space. NUL characters and lone "
        "surrogates are refused. The body as a whole is at most 1,000,000 bytes too (413)."
    ),
    "source": "Where the text is from; queries filter by it.",
    "thread_id": (
        "The conversation it belongs to: queries filter by it, and what stands up to two places before or after a "
        "passage in it counts for the passage. Its order is by `created_at`, then `sequence`, then `doc_id`."
    ),
    "sequence": "Its place among those of one `created_at` in its conversation.",
    "speaker": (
        "The name of whoever said it; sealed like the text. A question that names one of the user's speakers prefers "
        "what this one said. Two spellings that differ in case, punctuation or spaces are one speaker."
    ),
    "metadata": (
        "Anything the product wants back with each passage; sealed like the text. In a document of source `summary`, a "
        "list of ids under `derived_from` names what it was made from, at most 200; it goes with any of them."
    ),
    "created_at": (
        "When the text came to be, RFC 3339 with an offset, from 1900 to 2199 in UTC; the moment it is indexed where "
        "absent. Older passages score lower."
    ),
    "expires_at": (
        "From when on nobody sees it any more, later than `created_at`; never where absent. It is deleted at the "
        "operator's next daily clean-up, and counts in the quota until then."
    ),
}
FIELDS: dict[str, dict[str, str]] = {
    "*": {"user_id": "Accepted with any value and ignored: the user is the token's `sub` and nothing else."},
    "MemoryIndexRequest": {
        "": "One document to remember. The same `doc_id` again replaces the earlier version as a whole.",
        **_DOCUMENT,
    },
    "MemoryIndexDocument": {"": "One document of several.", **_DOCUMENT},
    "MemoryIndexBatchRequest": {
        "": "Several documents, all or none of them.",
        "documents": "The documents, each with a `doc_id` of its own; together they make at most 200 chunks.",
    },
    "MemorySummaryRequest": {
        "": "What to summarise: exactly one of `doc_ids`, `thread_id`, `source` and `query`.",
        "doc_ids": "These documents.",
        "thread_id": "A conversation.",
        "source": "The documents from one source.",
        "query": "What the memory holds about this.",
        "max_sentences": "How many sentences at most.",
        "store": "Whether to remember the summary.",
    },
    "MemoryEntityRequest": {
        "": "A text, or a stored document or conversation: exactly one of `text`, `doc_id` and `thread_id`.",
        "text": "A text, with the limits of one that is indexed. It is not stored.",
        "doc_id": "A stored document.",
        "thread_id": "All stored documents of a conversation.",
        "labels": "Only entities of these kinds.",
    },
    "MemoryQueryRequest": {
        "": "A question to the user's memory, with filters.",
        "query": 'The question. A phrase in quotation marks, `"heat pump"`, puts those of the best 50 candidates '
        "first that hold it as it is; at most 8 different phrases count.",
        "top_k": "How many passages to answer with.",
        "candidates": "How many candidates each search leg gives; raised to `top_k` where smaller.",
        "rerank_pool": "How many of the best candidates are reranked; raised to `top_k` where smaller.",
        "rerank": "Whether to rerank at all.",
        "source": "Only documents from this source, or from one of these.",
        "doc_id": "Only this document, or only these.",
        "thread_id": "Only documents of this conversation.",
        "since": "Only documents created at this moment or later.",
        "until": "Only documents created before this moment.",
        "context": (
            "Whether conversations have a say: neighbours in a passage's thread, dates and a speaker that the question "
            "names. Without it passages are judged by themselves."
        ),
        "speaker": "Only what this speaker said.",
        "now": "The moment that dates in the question, such as `yesterday`, count from; the present where absent.",
        "half_life_days": "The half-life of a passage's recency, in days, in place of the service's own.",
        "decay_weight": "How much of a score recency may take, in place of the service's own; 0 is none.",
        "min_score": "Only passages whose `score`, that of the last stage that ran, is at least this.",
        "min_vector": "Only passages whose `scores.vector` is at least this.",
        "surroundings": "How many passages before and after each result come with it, from its thread, or from its "
        "document where it has none, whatever the filters; with the results at most 150.",
    },
    "MemoryDocumentsRequest": {
        "limit": "How many documents a page has at most.",
        "cursor": "A position in the listing, as in `next` and `previous`; no other string is one.",
        "source": "Only documents from this source.",
        "thread_id": "Only documents of this conversation.",
        "since": "Only documents created at this moment or later.",
        "until": "Only documents created before this moment.",
    },
    "MemoryEraseRequest": {
        "": "The confirmation that this user is meant.",
        "confirm": "The user's own id, the token's `sub`; anything else is 422, and nothing is erased.",
    },
    "MemoryStreamRequest": {
        "": "A message to answer while writing.",
        "message": "The message.",
        "top_k": "How many passages of memory the answer may be made from.",
        "memory": "Whether memory is asked at all.",
        "source": "Only documents from this source, or from one of these.",
        "doc_id": "Only this document, or only these.",
        "thread_id": "Only documents of this conversation.",
        "since": "Only documents created at this moment or later.",
        "until": "Only documents created before this moment.",
        "min_score": "Only passages whose `score` is at least this.",
    },
}
